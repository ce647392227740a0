"""Search of an index, on one machine and in Spark tasks."""
