"""The bytes of a row's pictures, by path and URI, and what may be read."""
