"""At most so many requests at a time of one executor, though its tasks are processes of their own.

A slot is a file whose flock is held; the kernel gives it back when its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from udfs.errors import ServingError
from udfs.files.private_folder import require_private

_POLL_SECONDS = 0.02


class Slots:
    """`count` slots that all processes of this executor share which name them by the same `key`."""

    def __init__(self, key: str, *, count: int) -> None:
        executor = os.environ.get("SPARK_LOCAL_DIRS", "")
        name = hashlib.sha256(f"{executor}/{key}/{count}".encode()).hexdigest()[:16]
        parent = require_private(
            Path(tempfile.gettempdir()) / f"gme-lake-{os.getuid()}",
            error=ServingError,
            way_out="set TMPDIR",
        )
        self._files = [parent / f"slot-{name}-{number}" for number in range(count)]

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a slot for a block; waits until one is free."""
        fd = self._wait()
        try:
            yield
        finally:
            os.close(fd)

    def _wait(self) -> int:
        while True:
            for file in random.sample(self._files, len(self._files)):
                fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return fd
                except BlockingIOError:
                    os.close(fd)
            time.sleep(_POLL_SECONDS)
