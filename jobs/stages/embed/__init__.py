"""embed_table: stream the source, find what has no up-to-date vector, embed it, commit each micro-batch once."""
