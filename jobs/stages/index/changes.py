"""What changed in `vectors` since an index was built: vector_ids that are gone, and rows that are new."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.indexes import differing_ids
from jobs.lake.lake import Lake
from udfs import storage
from udfs.index.files import FileRecord
from udfs.index.manifest import VECTOR_ID_BYTES, Manifest
from udfs.search.row_files import write_vector_ids


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

    With a `folder` the comparison is made once, into files there.
    """
    rows = differing_ids(lake, manifest, version=version)
    with clear_task_errors():
        if folder is not None:
            rows.write.mode("overwrite").parquet(folder)
            rows = lake.spark.read.parquet(folder)
        counted = {r.is_new: int(r["count"]) for r in rows.groupBy("is_new").count().collect()}
    return Changes(counted.get(False, 0), counted.get(True, 0), rows)


def write_gone(changes: Changes, *, root: str, name: str) -> FileRecord | None:
    """Let one task write the vector_ids that are gone into the folder `root`; None where there are none."""
    if not changes.gone:
        return None
    gone = changes.rows.where("NOT is_new").select("vector_id").repartition(1)
    (row,) = on_executors(gone, write_vector_ids, path=storage.join(root, name)).rows()
    return FileRecord(name, row.sha256, row.rows * VECTOR_ID_BYTES)
