"""CPU seconds and peak memory of every process a benchmark starts, by role."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress
from types import TracebackType

import psutil

JVMS = ("jvm", "executors")
ROLES = ("driver", "jvm", "executors", "workers", "model server", "other")


class ProcessMeter:
    """Measures this process, its descendants and model servers while a block runs.

    `cpu` holds user + system seconds spent inside the block by role, without the sampling's own. Of a process that ends
    within it, what it spent after the last sample is lost: nobody is told, as Spark's daemon ignores its workers' ends.
    `rss` is the sampled peak of the summed resident bytes. Model servers are found by their command line: those of
    other lakes on the machine count too.
    """

    def __init__(self, *, interval: float = 0.2) -> None:
        self.cpu: dict[str, float] = {}
        self.rss: dict[str, int] = {}
        self._interval = interval
        self._sampling = 0.0
        self._before: dict[psutil.Process, float] = {}
        self._spent: dict[psutil.Process, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ProcessMeter:
        self._sample()
        self._before = {process: seconds for process, (_, seconds) in self._spent.items()}
        self.rss.clear()
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
        cpu: dict[str, float] = defaultdict(float)
        for process, (role, seconds) in self._spent.items():
            cpu[role] += seconds - self._before.get(process, 0.0)
        cpu["driver"] -= self._sampling
        self.cpu = {role: cpu[role] for role in ROLES if role in cpu}

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()
        self._sampling = time.thread_time()

    def _sample(self) -> None:
        rss: dict[str, int] = defaultdict(int)
        for role, process in _processes():
            with suppress(psutil.NoSuchProcess):
                rss[role] += process.memory_info().rss
                times = process.cpu_times()
                self._spent[process] = (role, times.user + times.system)
        for role, size in rss.items():
            self.rss[role] = max(self.rss.get(role, 0), size)


def _processes() -> list[tuple[str, psutil.Process]]:
    me = psutil.Process()
    found = {me.pid: ("driver", me)}
    for process in me.children(recursive=True):
        role = _role(process)
        # Between fork and exec a child of a JVM is a second one, on the same memory; file systems start many.
        if role not in JVMS or not _is_forked(process):
            found[process.pid] = (role, process)
    for process in psutil.process_iter():
        if process.pid not in found and _role(process) == "model server":
            found[process.pid] = ("model server", process)
    return list(found.values())


def _is_forked(process: psutil.Process) -> bool:
    try:
        parent = process.parent()
        return parent is not None and parent.cmdline() == process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return True


def _role(process: psutil.Process) -> str:
    try:
        line = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return "other"
    if "udfs.serving.server" in line:
        return "model server"
    if "CoarseGrainedExecutorBackend" in line:
        return "executors"
    if "org.apache.spark" in line:
        return "jvm"
    return "workers" if "pyspark" in line else "other"
