"""Retrieval tasks and their data, in every layout that is read."""
