"""Rows that tasks have done, in a small file a task: what a driver can show while a stage runs, on every kind of cluster."""

from __future__ import annotations

import json
import logging
import time
from typing import NamedTuple

from udfs import storage

REPORT_SECONDS = 5.0  # a task writes no oftener

log = logging.getLogger("gme_lake")


class Done(NamedTuple):
    """Rows that are done, how many of them were rejected, and whether there are more to come."""

    rows: int
    rejected: int
    ended: bool


class RowsDone:
    """Counts the rows of one task and writes the count into `folder`, which must be there; None: nobody looks.

    A task that is tried again replaces the count of the one before.
    """

    def __init__(self, folder: str | None, *, every: float = REPORT_SECONDS) -> None:
        self._uri = None if folder is None else storage.join(folder, f"{_partition()}.json")
        self._every = every
        self._next = time.monotonic() + every
        self._rows = self._rejected = 0

    def add(self, rows: int, *, rejected: int = 0) -> None:
        """Count rows that are done, some of them rejected."""
        self._rows += rows
        self._rejected += rejected
        if time.monotonic() >= self._next:
            self._write(ended=False)

    def end(self) -> None:
        """The task has no more rows."""
        self._write(ended=True)

    def _write(self, *, ended: bool) -> None:
        if self._uri is None:
            return
        count = Done(self._rows, self._rejected, ended)
        try:
            storage.write_small(json.dumps(count._asdict()).encode(), self._uri)
        except Exception as error:  # libraries of stores raise anything
            # A count is worth less than the task: Python may have no rights where the JVM writes the results.
            log.warning("rows done are not reported: %s cannot be written: %s", self._uri, error)
            self._uri = None
        self._next = time.monotonic() + self._every


def read_done(folder: str, *, known: dict[str, Done]) -> Done:
    """The sum of what tasks have written. `known` keeps those that have ended, which are not read again.

    Raises what the store's library does where the folder cannot be read; a file that is being replaced counts as it
    was before.
    """
    for name in storage.names(folder):
        if not name.endswith(".json") or (name in known and known[name].ended):
            continue
        try:
            data = storage.read_bytes(storage.join(folder, name), max_bytes=1000)
            known[name] = Done(**json.loads(data))
        except (FileNotFoundError, ValueError):
            continue
    counts = known.values()
    return Done(sum(c.rows for c in counts), sum(c.rejected for c in counts), ended=False)


def _partition() -> int:
    from pyspark import TaskContext

    task = TaskContext.get()
    return 0 if task is None else int(task.partitionId())
