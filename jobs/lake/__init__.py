"""The lake on the driver: its tables, indexes, releases, runs and the model registry."""
