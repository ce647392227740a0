"""CPU seconds and peak memory of every process a benchmark starts, by role."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from types import TracebackType

import psutil

ROLES = ("driver", "jvm", "workers", "model server", "other")


class ProcessMeter:
    """Samples this process, its descendants and model servers while a block runs.

    `cpu` holds user + system seconds spent inside the block by role, without the sampling's own; `rss` the peak of the
    summed resident bytes. Model servers are found by their command line: those of other lakes on the machine count too.
    A process shorter than the sampling interval may be missed.
    """

    def __init__(self, *, interval: float = 0.2) -> None:
        self.cpu: dict[str, float] = {}
        self.rss: dict[str, int] = {}
        self._interval = interval
        self._first: dict[tuple[int, float], float] = {}
        self._last: dict[tuple[int, float], tuple[str, float]] = {}
        self._sampling = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ProcessMeter:
        self._before = {(p.pid, p.create_time()): _seconds(p) for _, p in _processes()}
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        totals: dict[str, float] = defaultdict(float, driver=-self._sampling)
        for key, (role, seconds) in self._last.items():
            totals[role] += seconds - self._before.get(key, 0.0)
        self.cpu = {role: totals[role] for role in ROLES if role in totals}

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()
        self._sampling = time.thread_time()

    def _sample(self) -> None:
        rss: dict[str, int] = defaultdict(int)
        for role, process in _processes():
            try:
                key = (process.pid, process.create_time())
                if role == "other" and key in self._last:  # a dead process has no command line
                    role = self._last[key][0]
                self._last[key] = (role, _seconds(process))
                rss[role] += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        for role, size in rss.items():
            self.rss[role] = max(self.rss.get(role, 0), size)


def _processes() -> list[tuple[str, psutil.Process]]:
    me = psutil.Process()
    found = {me.pid: ("driver", me)}
    for process in me.children(recursive=True):
        found[process.pid] = (_role(process), process)
    for process in psutil.process_iter():
        if process.pid not in found and _role(process) == "model server":
            found[process.pid] = ("model server", process)
    return list(found.values())


def _role(process: psutil.Process) -> str:
    try:
        line = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return "other"
    if "udfs.serving.server" in line:
        return "model server"
    if "org.apache.spark" in line:
        return "jvm"
    return "workers" if "pyspark" in line else "other"


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system
