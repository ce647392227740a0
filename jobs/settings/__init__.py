"""Everything a job can be told, and where it is read from."""
