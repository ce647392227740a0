"""Where a model server's socket, lock and log lie, and who holds the lock."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from udfs.errors import ServingError
from udfs.files.private_folder import require_private
from udfs.serving.wire import PROTOCOL
from udfs.specs import ModelSpec, ServingSpec

MAX_SOCKET_PATH = 107  # sun_path of Linux holds 108 bytes with the closing zero, see unix(7)


@dataclass(frozen=True)
class Address:
    """The files of one server: `<folder>/<name>.sock`, `.lock`, `.log`."""

    folder: Path
    name: str

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.folder / f"{self.name}.sock"

    @property
    def lock(self) -> Path:
        """Empty; the living server holds its flock."""
        return self.folder / f"{self.name}.lock"

    @property
    def log(self) -> Path:
        """What the server printed; stays only where it did not end in an orderly way."""
        return self.folder / f"{self.name}.log"

    def log_tail(self, size: int = 2000) -> str:
        """The last `size` bytes of the log, or a word that there is none."""
        try:
            return self.log.read_bytes()[-size:].decode(errors="replace").strip() or "(empty log)"
        except FileNotFoundError:
            return "(no log)"

    def remove(self) -> None:
        """Remove all three files; only for the holder of the lock. The lock goes last."""
        for path in (self.socket, self.log, self.lock):
            path.unlink(missing_ok=True)


def server_address(model: ModelSpec, serving: ServingSpec, *, gpu: str | None) -> Address:
    """One address per (Spark executor, user, GPU, model, serving settings).

    SPARK_LOCAL_DIRS names folders that Spark makes for one executor, so it tells executors of one machine apart.
    """
    fields = dataclasses.asdict(serving)
    fields.pop("start_timeout_seconds")  # how long a client waits changes nothing in the server
    named = dataclasses.asdict(model)
    if model.canaries is not None:
        named["canaries"].pop("uri")  # lakes have copies of their own
    key = {
        "protocol": PROTOCOL,
        "executor": os.environ.get("SPARK_LOCAL_DIRS", ""),
        "uid": os.getuid(),
        "gpu": gpu,
        "model": named,
        "serving": fields,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return Address(folder=_private_folder(len(f"/{name}.sock")), name=name)


def try_lock(address: Address) -> int | None:
    """A descriptor that holds the server's lock, or None while a server lives.

    The server inherits the descriptor and so holds the lock until its process ends, however it ends.
    """
    try:
        fd = os.open(address.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:  # a leaving server has just removed the folder's last file; ask again
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), address.lock.stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # held by a living server, or removed by a leaving one between open and flock
    os.close(fd)
    return None


def _private_folder(room: int) -> Path:
    """`gme-lake-<uid>` (0700) under the temp dir, or under /tmp where the former makes socket paths too long."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        folder = Path(parent) / f"gme-lake-{os.getuid()}"
        if len(os.fsencode(folder)) + room <= MAX_SOCKET_PATH:
            break
    else:
        raise ServingError(f"no folder short enough for a Unix socket: {folder}; set TMPDIR")
    return require_private(folder, error=ServingError, way_out="set TMPDIR")
