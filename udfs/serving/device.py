"""Which device a task's model runs on: the GPU that Spark gave the task, the first visible one, or the CPU."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple


class Device(NamedTuple):
    """`gpu`: the value of CUDA_VISIBLE_DEVICES for the model's process, None to leave it; `torch`: a device name or
    "auto".
    """

    gpu: str | None
    torch: str


def task_device(asked: str) -> Device:
    """The device for this task's model, where `asked` is `ServingSpec.device` (auto, cpu, cuda, cuda:0, ...).

    Spark's own assignment wins over "auto" and "cuda", because two executors on one machine must not choose the
    same GPU. In local mode Spark assigns nothing; then torch decides in the model's process.
    """
    if asked == "cpu":
        return Device(gpu="", torch="cpu")
    gpu = _gpu_of_task()
    if gpu is None or asked not in ("auto", "cuda"):
        return Device(gpu=None, torch=asked)
    return Device(gpu=gpu, torch="cuda:0")


def usable_cores(threads: int) -> int:
    """CPU threads for the model: `threads`, or every core this process may use where it is 0."""
    if threads > 0:
        return threads
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def _gpu_of_task() -> str | None:
    # pyspark is looked up, not imported: a process that has not loaded it is no Spark task.
    if "pyspark" not in sys.modules:
        return None
    from pyspark import TaskContext

    context = TaskContext.get()
    resources = context.resources() if context is not None else {}
    addresses = resources["gpu"].addresses if "gpu" in resources else []
    return addresses[0] if addresses else None
