"""Rows that are new since an index was built, as an exact index of their own for one search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydantic

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.stages.index.build import by_shard
from jobs.stages.index.changes import Changes
from jobs.stages.index.vectors import indexed_vectors
from udfs.index.build import ShardsSpec, build_batches
from udfs.index.manifest import Manifest, ShardRecord
from udfs.index.plan import default_plan
from udfs.index.resume import publish_quantizer
from udfs.index.train import train_quantizer
from udfs.specs import IndexSpec

FRESH_ROWS_PER_SHARD = 200_000


def write_fresh(lake: Lake, changes: Changes, *, spec: IndexSpec) -> str:
    """Let tasks write the new rows as an exact index into the folder `spec.root`, which is returned.

    `spec` is the released index's with that folder and the version of `vectors` to read.
    """
    shards = 1 + changes.fresh // FRESH_ROWS_PER_SHARD
    plan = default_plan(changes.fresh, spec.dim, factory="Flat", shards=shards)
    spec = replace(spec, index_id=f"{spec.index_id}-fresh", plan=plan)
    untrained = train_quantizer(np.empty((0, spec.dim), np.float32), plan, threads=1)
    quantizer = publish_quantizer(untrained, spec.root, rows=0).file
    placed = by_shard(changes.new_of(indexed_vectors(lake, spec)), spec, shards=range(shards))
    build = ShardsSpec(spec, quantizer, spec.root)
    made = on_executors(placed, build_batches, spec=build).rows()
    reader = pydantic.TypeAdapter(ShardRecord)
    records = [
        reader.validate_json(row.record) for row in sorted(made, key=lambda made: made.shard)
    ]
    Manifest(spec, quantizer, tuple(records)).write(spec.root)
    return spec.root
