"""What an executor's machine has for a model: the device it would run on, its checkpoint, memory for a Python worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.errors import CheckpointError
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.fingerprint import model_id
from udfs.gme.weights import check_weights
from udfs.serving.device import task_device
from udfs.specs import EmbedSpec, ModelSpec

MACHINE_OUTPUT = Columns("host string, device string, checkpoint_error string, memory_bytes bigint")
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # CUDA, ROCm, and GPUs in WSL
_ASK_TORCH = (
    "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"
)
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@gives(MACHINE_OUTPUT)
def describe_machines(
    batches: Iterator[pa.RecordBatch], *, spec: EmbedSpec
) -> Iterator[pa.RecordBatch]:
    """One MACHINE_OUTPUT row of this task's machine, whatever the input is.

    `device` is as torch calls it, "cpu" too where a GPU was asked for and there is none; `checkpoint_error` says why the
    model's checkpoint cannot be read, null where it can: its weights are not hashed, the model's server does that.
    `memory_bytes` is what the machine, or the container, has in all.
    """
    for _ in batches:
        pass
    device = task_device(spec.serving.device)
    found = "cpu" if device.torch == "cpu" else gpu_name(device.gpu)
    row = (socket.gethostname(), found, checkpoint_error(spec.model), machine_bytes())
    yield MACHINE_OUTPUT.batch(*[[value] for value in row])


@lru_cache(maxsize=4)
def gpu_name(gpu: str | None) -> str:
    """What torch calls the first GPU of those that CUDA_VISIBLE_DEVICES=`gpu` shows (None: as it is), or "cpu".

    Another process asks torch: a worker that has once looked for GPUs keeps some of one's memory.
    """
    if not any(Path(file).exists() for file in _GPU_FILES):
        return "cpu"
    seen = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
    asked = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH],
        env=os.environ | seen,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return asked.stdout.strip() if asked.returncode == 0 else "cpu"


def checkpoint_error(model: ModelSpec) -> str | None:
    """Why the folder on this machine does not hold the model, by its small files and headers; None: it does."""
    try:
        checkpoint = Checkpoint.read(model.path)
        check_weights(checkpoint)
    except CheckpointError as error:
        return str(error)
    named = model_id(
        checkpoint, weights_sha256=model.weights_sha256, dtype=model.dtype, profile=model.profile
    )
    if named != model.model_id:
        return (
            f"{model.path} makes model_id {named}, not {model.model_id}: its config or its tokenizer are others than the "
            "driver's"
        )
    return None


def machine_bytes() -> int:
    """Memory of this machine in all, or of the container where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _LIMITS:
        try:
            said = Path(file).read_text("ascii").strip()
        except OSError:
            continue
        found += [int(said)] if said.isdigit() else []
    return min(found)
