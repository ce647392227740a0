"""What a block of work took of its process: core seconds, and the most memory that was resident."""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # man 5 proc: resets VmHWM to what is resident now


class UsageMeter:
    """Reads of one process, all threads, since it was made.

    `peak_bytes` is the peak since the process began where the system does not let it be reset (not on Linux, or a
    container that forbids it); that is never too small.
    """

    def __init__(self) -> None:
        if _CLEAR.exists():
            with suppress(PermissionError):  # then as the docstring says
                _CLEAR.write_text(_RESET_PEAK)
        self._start = time.process_time()

    @property
    def core_seconds(self) -> float:
        """User and system seconds of all threads; waiting for Spark's rows costs none."""
        return time.process_time() - self._start

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were resident, libraries included."""
        return _status("VmHWM") or _lifetime_peak()


def resident_bytes() -> int:
    """What is resident now; elsewhere than on Linux the process's peak."""
    return _status("VmRSS") or _lifetime_peak()


def _status(name: str) -> int:
    """A figure of /proc/self/status in bytes, 0 where there is none."""
    if not _STATUS.exists():
        return 0
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _lifetime_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
