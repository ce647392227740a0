"""What an index will cost, printed before it is built: core seconds, bytes on disk, memory of a task."""

from __future__ import annotations

import math
from dataclasses import dataclass

from udfs.ann.plan import factory_traits
from udfs.specs import IndexPlan

GEMM_FLOPS = 85e9  # one core, float32, rotation and coarse assignment while encoding
TRAIN_FLOPS = 72e9  # one core, k-means
KMEANS_ITERATIONS = 10
ENCODE_OVERHEAD = 3e-6  # seconds per vector beside the matrix products
OPQ_SECONDS = 25.0  # at 1536 floats; the products in it grow with the width
OPQ_WIDTH = 1536
ID_BYTES = 8
ROW_NAME_BYTES = 48  # assumed: vector_id, offset and a row id of about 36 characters
BATCH_ROWS = 65_536  # vectors a task holds besides the index it builds


@dataclass(frozen=True)
class CostEstimate:
    """Seconds are of one core; bytes are totals over all shards, `task_peak_bytes` of the largest task."""

    plan: IndexPlan
    rows: int
    dim: int
    train_seconds: float
    encode_seconds: float
    index_bytes: int
    refine_bytes: int
    rows_bytes: int
    task_peak_bytes: int

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"{self.rows:,} rows × {self.dim} as {plan.factory} ({plan.metric}) in {plan.shards} shard(s): "
            f"train {_seconds(self.train_seconds)} on {plan.train_rows:,} rows, "
            f"encode {_seconds(self.encode_seconds)} of one core; "
            f"index {_bytes(self.index_bytes)}, re-rank {_bytes(self.refine_bytes)}, "
            f"ids {_bytes(self.rows_bytes)}; peak memory of a task {_bytes(self.task_peak_bytes)}"
        )


def estimate(plan: IndexPlan, rows: int, dim: int) -> CostEstimate:
    """The cost model fitted on faiss-cpu 1.15 (one core, OpenBLAS): trust it to a factor of two."""
    traits = factory_traits(plan.factory, dim)
    rotation = dim if traits.rotated else 0
    per_vector = 2 * traits.width * (rotation + plan.nlist) / GEMM_FLOPS + ENCODE_OVERHEAD
    kmeans = 2 * plan.train_rows * plan.nlist * traits.width * KMEANS_ITERATIONS / TRAIN_FLOPS
    opq = OPQ_SECONDS * dim / OPQ_WIDTH if "OPQ" in plan.factory else 0.0
    # Fast-scan lists are filled up to blocks of 32 codes: half a block is lost per list and shard.
    padding = 16 * traits.code_bytes * plan.shards * plan.nlist if traits.fast_scan else 0
    quantizer = 4 * traits.width * (rotation + plan.nlist)
    index_bytes = rows * (traits.code_bytes + (ID_BYTES if plan.nlist else 0)) + padding
    index_bytes += plan.shards * quantizer
    shard_rows = math.ceil(rows / plan.shards)
    batch = min(shard_rows, BATCH_ROWS) * 4 * (dim + traits.width)
    building = math.ceil(index_bytes / plan.shards) + shard_rows * ID_BYTES * 2 + batch
    training = plan.train_rows * 4 * (dim + (traits.width if traits.rotated else 0)) + quantizer
    return CostEstimate(
        plan=plan,
        rows=rows,
        dim=dim,
        train_seconds=kmeans + opq,
        encode_seconds=rows * per_vector,
        index_bytes=index_bytes,
        refine_bytes=2 * dim * rows if plan.refine == "fp16" else 0,
        rows_bytes=rows * ROW_NAME_BYTES,
        task_peak_bytes=max(building, training),
    )


def _seconds(value: float) -> str:
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:,.0f} s" if value < 3600 else f"{value / 3600:,.1f} h"


def _bytes(value: int) -> str:
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
