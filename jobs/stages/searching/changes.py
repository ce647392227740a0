"""What changed in `vectors` since an index was built: vector_ids that are gone, and rows that are new."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pydantic

from jobs.driver.tasks import clear_task_errors
from jobs.stages.indexing.building import by_shard
from jobs.stages.indexing.planning import indexed_vectors
from udfs.ann.manifest import Manifest, ShardRecord

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.driver.lake import Lake
    from udfs.specs import IndexSpec

FRESH_ROWS_PER_SHARD = 200_000


@dataclass(frozen=True)
class Changes:
    """How many rows, and `rows` (vector_id, is_new). A changed row is both: it has got a fresh vector_id."""

    gone: int
    fresh: int
    rows: DataFrame


def changes_since(lake: Lake, manifest: Manifest, *, version: int, folder: str) -> Changes:
    """Compare the index's own rows with `vectors` at `version`, by vector_id alone.

    Nothing is asked of the version the index was built from: its files may have been vacuumed.
    """
    from pyspark.sql import functions as F

    from udfs.row_files import VECTOR_IDS
    from udfs.search import indexed_ids

    spark, shards = lake.spark, len(manifest.shards)
    live = indexed_vectors(lake, replace(manifest.spec, vectors_version=version))
    read = functools.partial(indexed_ids, root=manifest.spec.root)
    indexed = spark.range(shards).repartition(shards).mapInArrow(read, VECTOR_IDS)
    both = live.select("vector_id", F.lit(True).alias("is_live")).join(
        indexed.withColumn("is_indexed", F.lit(True)), "vector_id", "full"
    )
    differing = both.where("is_live IS NULL OR is_indexed IS NULL")
    with clear_task_errors():
        differing.selectExpr("vector_id", "is_indexed IS NULL AS is_new").write.parquet(folder)
    rows = spark.read.parquet(folder)
    counted = {row.is_new: int(row["count"]) for row in rows.groupBy("is_new").count().collect()}
    return Changes(counted.get(False, 0), counted.get(True, 0), rows)


def write_gone(changes: Changes, *, path: str) -> str:
    """Let one task write the vector_ids that are gone; returns the file's path."""
    from udfs.row_files import WRITTEN_IDS, write_vector_ids

    gone = changes.rows.where("NOT is_new").select("vector_id").repartition(1)
    with clear_task_errors():
        gone.mapInArrow(functools.partial(write_vector_ids, path=path), WRITTEN_IDS).collect()
    return path


def write_fresh(lake: Lake, changes: Changes, *, spec: IndexSpec) -> str:
    """Let tasks write the new rows as an exact index into the folder `spec.root`, which is returned.

    `spec` is the released index's with that folder and the version of `vectors` to read.
    """
    import numpy as np

    from udfs.ann.plan import default_plan
    from udfs.ann.resume import publish_quantizer
    from udfs.ann.tasks import SHARD_OUTPUT, ShardsSpec, build_batches
    from udfs.ann.train import train_quantizer

    shards = 1 + changes.fresh // FRESH_ROWS_PER_SHARD
    plan = default_plan(changes.fresh, spec.dim, factory="Flat", shards=shards)
    spec = replace(spec, index_id=f"{spec.index_id}-fresh", plan=plan)
    untrained = train_quantizer(np.empty((0, spec.dim), np.float32), plan, threads=1)
    quantizer = publish_quantizer(untrained, spec.root, rows=0).file
    rows = indexed_vectors(lake, spec)
    rows = rows.join(changes.rows.where("is_new").select("vector_id"), "vector_id")
    placed = by_shard(rows, spec, shards=range(shards))
    build = functools.partial(build_batches, spec=ShardsSpec(spec, quantizer))
    with clear_task_errors():
        made = placed.mapInArrow(build, SHARD_OUTPUT).collect()
    reader = pydantic.TypeAdapter(ShardRecord)
    records = [
        reader.validate_json(row.record) for row in sorted(made, key=lambda made: made.shard)
    ]
    Manifest(spec, quantizer, tuple(records)).write(spec.root)
    return spec.root
