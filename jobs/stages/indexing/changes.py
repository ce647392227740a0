"""What changed in `vectors` since an index was built: vector_ids that are gone, and rows that are new."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.driver.tasks import clear_task_errors
from jobs.stages.indexing.vectors import indexed_vectors
from udfs import storage
from udfs.ann.files import FileRecord
from udfs.ann.manifest import VECTOR_ID_BYTES, Manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.driver.lake import Lake


@dataclass(frozen=True)
class Changes:
    """How many rows, and `rows` (vector_id, is_new). A changed row is both: it has got a fresh vector_id."""

    gone: int
    fresh: int
    rows: DataFrame

    def new_of(self, vectors: DataFrame) -> DataFrame:
        """The rows of `vectors` that are new."""
        return vectors.join(self.rows.where("is_new").select("vector_id"), "vector_id")


def changes_since(
    lake: Lake, manifest: Manifest, *, version: int, folder: str | None = None
) -> Changes:
    """Compare the index's own rows with `vectors` at `version`, by vector_id alone.

    Nothing is asked of the version the index was built from: its files may have been vacuumed. With a `folder` the
    comparison is made once, into files there.
    """
    from pyspark.sql import functions as F

    from udfs.row_files import VECTOR_IDS
    from udfs.search import indexed_ids

    spark, shards = lake.spark, len(manifest.all_shards(manifest.spec.root))
    live = indexed_vectors(lake, replace(manifest.spec, vectors_version=version))
    read = functools.partial(indexed_ids, root=manifest.spec.root)
    indexed = spark.range(shards).repartition(shards).mapInArrow(read, VECTOR_IDS)
    both = live.select("vector_id", F.lit(True).alias("is_live")).join(
        indexed.withColumn("is_indexed", F.lit(True)), "vector_id", "full"
    )
    differing = both.where("is_live IS NULL OR is_indexed IS NULL")
    rows = differing.selectExpr("vector_id", "is_indexed IS NULL AS is_new")
    with clear_task_errors():
        if folder is not None:
            rows.write.mode("overwrite").parquet(folder)
            rows = spark.read.parquet(folder)
        counted = {r.is_new: int(r["count"]) for r in rows.groupBy("is_new").count().collect()}
    return Changes(counted.get(False, 0), counted.get(True, 0), rows)


def write_gone(changes: Changes, *, root: str, name: str) -> FileRecord | None:
    """Let one task write the vector_ids that are gone into the folder `root`; None where there are none."""
    from udfs.row_files import WRITTEN_IDS, write_vector_ids

    if not changes.gone:
        return None
    write = functools.partial(write_vector_ids, path=storage.join(root, name))
    gone = changes.rows.where("NOT is_new").select("vector_id").repartition(1)
    with clear_task_errors():
        (row,) = gone.mapInArrow(write, WRITTEN_IDS).collect()
    return FileRecord(name, row.sha256, row.rows * VECTOR_ID_BYTES)
