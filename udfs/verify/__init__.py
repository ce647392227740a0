"""What is wrong with an index: its files, its rows, its codes; and the files of a shard made again."""
