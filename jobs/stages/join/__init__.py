"""join_similar: each row of one table of vectors gets its nearest rows of another, by a temporary index of that."""
