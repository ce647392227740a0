"""What a job does to the lake: embedding, indexing, searching. A stage takes an open lake and settings."""
