"""Whether executors can do what is planned: the model's checkpoint, its device, memory for a task of Python."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from udfs.errors import CheckpointError, LakeError, SettingsError
from udfs.index.cost import format_bytes
from udfs.serving.machine import describe_machines
from udfs.specs import EmbedSpec

log = logging.getLogger("gme_lake")

_TASKS = 4  # that look: nothing says which executors they run on
_SIZE = re.compile(r"(\d+)\s*([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_LEAST_OVERHEAD = 384 << 20  # Spark's


@dataclass(frozen=True)
class Machines:
    """What the executors' machines have: the `device` that a model runs on there, and memory for one Python worker."""

    device: str
    worker_bytes: int


def look_at_machines(lake: Lake, spec: EmbedSpec) -> Machines:
    """Ask some executors what they have for a model.

    Raises CheckpointError where none of them can read its checkpoint, SettingsError where serving.device asks for a GPU
    and none has one. What some lack is logged: the tasks that run there fail, and Spark tries them elsewhere.
    """
    asked = on_executors(lake.spark.range(0, _TASKS, 1, _TASKS), describe_machines, spec=spec)
    rows = asked.rows()
    if not rows:
        raise LakeError("no executor has said what it has; run it again")
    unreadable = [row for row in rows if row.checkpoint_error is not None]
    if unreadable:
        row = unreadable[0]
        said = f"executor {row.host} cannot read the checkpoint of model {spec.model.model_id}: {row.checkpoint_error}"
        if len(unreadable) == len(rows):
            raise CheckpointError(
                f"{said}. No executor that was asked can: put the folder where all of them reach it under this path, or "
                "register it from there. Nothing was embedded"
            )
        log.warning("%s", said)
    without = {row.host for row in rows if row.device == "cpu"}
    if spec.serving.device.startswith("cuda") and without:
        said = f"serving.device={spec.serving.device}, and torch sees no GPU on {', '.join(sorted(without))}"
        if all(row.device == "cpu" for row in rows):
            raise SettingsError(
                f"{said}: give executors a GPU (spark.executor.resource.gpu.amount, and a torch built for it), or set "
                "serving.device=auto. Nothing was embedded"
            )
        log.warning("%s", said)
    room = min(row.memory_bytes for row in rows)
    return Machines(rows[0].device, worker_room(lake.spark.conf.get, machine=room))


def worker_room(conf: Callable[[str, str], str | None], *, machine: int) -> int:
    """Bytes that one Python worker may take on a machine, or in a container, of so many: what Spark's heap leaves.

    Of a container of YARN or Kubernetes that is the overhead alone, whatever else the machine has.
    """
    master = conf("spark.master", "") or ""
    local = master.startswith("local")
    heap = _bytes(conf("spark.driver.memory" if local else "spark.executor.memory", "1g"))
    room = machine - heap if heap < machine else machine
    if not master.startswith(("yarn", "k8s")):
        return room
    factor = float(
        conf("spark.executor.memoryOverheadFactor", "") or (0.4 if master[0] == "k" else 0.1)
    )
    given = conf("spark.executor.memoryOverhead", "")
    overhead = _bytes(given) if given else max(int(factor * heap), _LEAST_OVERHEAD)
    return min(room, overhead + _bytes(conf("spark.executor.pyspark.memory", "0")))


def require_fits(task_bytes: int, machines: Machines, *, index: str) -> None:
    """Raise SettingsError where a task of a build needs more memory than a Python worker may take."""
    if task_bytes <= machines.worker_bytes:
        return
    raise SettingsError(
        f"{index} needs about {format_bytes(task_bytes)} of memory in one task, and a Python worker on an executor may take "
        f"{format_bytes(machines.worker_bytes)}. Give executors more (spark.executor.memoryOverhead, or larger machines), "
        "or plan smaller tasks: more index.shards, fewer index.train_rows. Nothing was embedded"
    )


def _bytes(size: str | None) -> int:
    """Bytes of a size as Spark writes it; a bare number is of mebibytes."""
    found = _SIZE.fullmatch((size or "0").strip())
    if found is None:
        raise SettingsError(f"Spark's setting {size!r} is no size of memory such as 4g")
    return int(found[1]) * _UNITS[found[2].lower() or "m"]
