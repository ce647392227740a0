"""purge_ids: the vectors of some ids go from every file of the lake, and reading every file proves it."""
