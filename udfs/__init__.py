"""EXECUTOR: everything that runs inside a Python worker or the model server."""
