"""The process that does a run, as another one finds it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """A process as another one finds it: its machine, number and start time, as numbers are used again."""

    machine: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Holder:
        """This process."""
        return cls(_machine(), os.getpid(), start_time(os.getpid()) or "")

    @classmethod
    def parse(cls, text: str) -> Holder:
        """The holder that `str()` made `text` of."""
        machine, pid, started = text.rsplit("|", 2)
        return cls(machine, int(pid), started)

    def __str__(self) -> str:
        return f"{self.machine}|{self.pid}|{self.started}"


def _machine() -> str:
    """Names the machine and the process numbers in it: host name, boot, and namespace of process ids."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    known = [boot.read_text().strip()] if boot.exists() else []
    known += [str(namespace.readlink())] if namespace.is_symlink() else []
    return " ".join([socket.gethostname(), *known]).replace("|", "/")


def start_time(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None where there is no such process.

    Without /proc (macOS) only whether it lives is known.
    """
    status = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # Field 22 of proc(5); the name in brackets may hold blanks.
            return status.read_text().rpartition(")")[2].split()[19]
        except (FileNotFoundError, ProcessLookupError):
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
