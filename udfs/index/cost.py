"""What an index will cost, printed before it is built: core seconds, bytes on disk, memory of a task."""

from __future__ import annotations

import math
from dataclasses import dataclass

from udfs.index.plan import FactoryTraits, factory_traits
from udfs.index.probe import Speed
from udfs.index.train import opq_rows
from udfs.specs import IndexPlan

ID_BYTES = 8
ROW_NAME_BYTES = 48  # assumed: vector_id, offset and a row id of about 36 characters
BATCH_BYTES = 8_000_000  # of vectors in an Arrow batch, as the session limits it
BATCH_COPIES = 3  # as it comes, as Arrow holds it, rotated and in float16
LIST_GROWTH = 1.5  # lists of codes double when they are full


@dataclass(frozen=True)
class CostEstimate:
    """Seconds are of one core of the tasks, without what Spark takes to read and move the rows; bytes are totals over
    all shards, `train_peak_bytes` and `encode_peak_bytes` what is resident in the largest task of either kind.
    """

    plan: IndexPlan
    rows: int
    dim: int
    train_seconds: float
    encode_seconds: float
    index_bytes: int
    refine_bytes: int
    rows_bytes: int
    train_peak_bytes: int
    encode_peak_bytes: int

    @property
    def task_peak_bytes(self) -> int:
        """Memory that a task needs, libraries included."""
        return max(self.train_peak_bytes, self.encode_peak_bytes)

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"{self.rows:,} rows × {self.dim} as {plan.factory} ({plan.metric}) in {plan.shards} shard(s): "
            f"train {format_seconds(self.train_seconds)} on {plan.train_rows:,} rows, "
            f"encode {format_seconds(self.encode_seconds)} of one core, reading beside; "
            f"index {format_bytes(self.index_bytes)}, re-rank {format_bytes(self.refine_bytes)}, "
            f"ids {format_bytes(self.rows_bytes)}; peak memory of a task {format_bytes(self.task_peak_bytes)}"
        )


def estimate(plan: IndexPlan, rows: int, dim: int, *, speed: Speed) -> CostEstimate:
    """The cost of a build on machines of that `speed`."""
    traits = factory_traits(plan.factory, dim)
    # Fast-scan lists are filled up to blocks of 32 codes: half a block is lost per list and shard.
    padding = 16 * traits.code_bytes * plan.shards * plan.nlist if traits.fast_scan else 0
    quantizer = 4 * traits.width * ((dim if traits.rotated else 0) + plan.nlist)
    index_bytes = rows * (traits.code_bytes + (ID_BYTES if plan.nlist else 0)) + padding
    index_bytes += plan.shards * quantizer
    refine_bytes = 2 * dim * rows if plan.refine == "fp16" else 0
    files = index_bytes + refine_bytes + rows * ROW_NAME_BYTES
    return CostEstimate(
        plan=plan,
        rows=rows,
        dim=dim,
        train_seconds=speed.train_seconds(plan.train_rows),
        encode_seconds=rows * speed.encode_seconds + files * speed.byte_seconds,
        index_bytes=index_bytes,
        refine_bytes=refine_bytes,
        rows_bytes=rows * ROW_NAME_BYTES,
        train_peak_bytes=speed.worker_bytes + _training_bytes(plan, traits, dim) + quantizer,
        encode_peak_bytes=speed.worker_bytes
        + quantizer  # as it came; the index holds it again
        + _building_bytes(plan, rows=rows, dim=dim, index_bytes=index_bytes),
    )


def _training_bytes(plan: IndexPlan, traits: FactoryTraits, dim: int) -> int:
    """The sample, and the larger of what its rotation works on and of the rotated sample."""
    sample = 4 * plan.train_rows * dim
    if not traits.rotated:
        return sample
    rows = min(plan.train_rows, opq_rows(dim))
    rotating = 4 * rows * (3 * dim + 2 * traits.width) + 3 * 8 * dim**2
    return sample + max(rotating, 4 * plan.train_rows * traits.width)


def _building_bytes(plan: IndexPlan, *, rows: int, dim: int, index_bytes: int) -> int:
    """The largest shard, its vector_ids twice, and the batch at hand."""
    shard_rows = math.ceil(rows / plan.shards)
    codes = math.ceil(index_bytes / plan.shards * LIST_GROWTH)
    batch = min(4 * dim * shard_rows, BATCH_BYTES) * BATCH_COPIES
    return codes + 2 * ID_BYTES * shard_rows + batch


def format_seconds(value: float) -> str:
    """Core seconds for people."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:,.0f} s" if value < 3600 else f"{value / 3600:,.1f} h"


def format_bytes(value: int) -> str:
    """Bytes for people."""
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
