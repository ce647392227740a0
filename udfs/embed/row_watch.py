"""The last net under a task: a row that takes far too long ends its worker, and the next attempt leaves it out."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from udfs import storage
from udfs.errors import RowRejected

EXIT_CODE = 75  # sysexits.h: try again
log = logging.getLogger("gme_lake")


class RowWatch:
    """Watches the row that a worker prepares, by a thread of its own.

    Past `seconds` it writes a note named by the row's key into `folder`, which all executors reach, and ends the
    process: nothing else stops a thread that is stuck in a library. Spark starts the task again; its watch finds the
    note, and the row is rejected by name. Each attempt of a task can find one such row, so `spark.task.maxFailures`
    bounds how many a task may have.
    """

    def __init__(self, folder: str, *, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._current: tuple[str, float] | None = (
            None  # key and start: replaced whole, read by the thread
        )
        self._done = threading.Event()
        self._noted = frozenset(storage.names(folder))
        self._thread = threading.Thread(target=self._watch, name="row watch", daemon=True)

    def __enter__(self) -> RowWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()

    def is_noted(self, key: str) -> bool:
        """Whether an earlier attempt of the row `key` was ended."""
        return bool(self._noted) and _note(key) in self._noted

    @contextmanager
    def row(self, key: str) -> Iterator[None]:
        """Watch what is done inside for the row `key`. Raises RowRejected("too_slow") where an earlier attempt of it
        is noted.
        """
        if self.is_noted(key):
            raise RowRejected(
                "too_slow",
                f"an earlier attempt to prepare this row took more than {self._seconds:g} s "
                "(embed.max_task_seconds_per_row) and was ended",
            )
        self._current = (key, time.monotonic())
        try:
            yield
        finally:
            self._current = None

    def _watch(self) -> None:
        pause = min(max(self._seconds / 20, 0.02), 5.0)
        while not self._done.wait(pause):
            current = self._current
            if current is not None and time.monotonic() - current[1] > self._seconds:
                self._end(current[0])

    def _end(self, key: str) -> None:
        said = (
            f"row {key!r:.200} is in preparation for more than {self._seconds:g} s "
            "(embed.max_task_seconds_per_row): this worker ends, the next attempt leaves the row out"
        )
        try:
            self._write(key)
        except (
            Exception
        ):  # without a note the next attempt meets the row again; it must end all the same
            log.exception("the note about it could not be written to %s", self._folder)
        sys.stderr.write(said + "\n")
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    def _write(self, key: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            note = Path(folder) / "note"
            note.write_bytes(b"")
            storage.publish(note, storage.join(self._folder, _note(key)))


def _note(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
