"""Committed indexes: their rows, where their files lie now, whether those are whole, and how old they are."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.conflicts import again_on_conflict
from jobs.lake.lake import Lake
from jobs.lake.sql import literal
from udfs import storage
from udfs.errors import IndexDataError, LakeError
from udfs.index.drift import SAMPLE_ROWS, DriftSpec, drift_batches
from udfs.index.manifest import MANIFEST_NAME, Manifest
from udfs.search.batches import indexed_ids

_SHOWN = 3  # files named in a message


@dataclass(frozen=True)
class Age:
    """How an index compares with `vectors` now: `missing` of the model's `live` rows are not in it, `gone` of its `indexed`
    rows are no longer there.
    """

    live: int
    missing: int
    indexed: int
    gone: int


def find_index(lake: Lake, index_id: str) -> Any:
    """The row of `indexes`, or None where no such index was finished."""
    return lake.read("indexes").where(F.col("index_id") == index_id).first()


def read_indexes(lake: Lake, *, model_id: str) -> dict[str, Any]:
    """The rows of `indexes` of one model by index_id."""
    rows = lake.read("indexes").where(F.col("model_id") == model_id).collect()
    return {row.index_id: row for row in rows}


def require_index(lake: Lake, index_id: str) -> Any:
    """The row of `indexes`. Raises LakeError where no such index was finished."""
    row = find_index(lake, index_id)
    if row is None:
        raise LakeError(
            f"index {index_id} is not in {lake.name('indexes')}; build one with gme-lake build-index"
        )
    return row


def base_of(row: Any) -> str | None:
    """The index that the one of a row of `indexes` adds to; None: it is whole."""
    base: str | None = json.loads(row.params).get("base")
    return base


def index_folder(lake: Lake, row: Any) -> str:
    """Where the files of a row of `indexes` lie.

    Rows of older lakes name an absolute folder. Where that is of another place, and this lake has a folder of the index,
    then it was moved or copied here, and its own is meant.
    """
    named = lake.resolve(str(row.root))
    own = lake.folder("indexes", str(row.index_id))
    if named != own and not lake.holds(named) and storage.exists(storage.join(own, MANIFEST_NAME)):
        return own
    return named


def read_manifest(lake: Lake, row: Any) -> Manifest:
    """The manifest that was committed with a row of `indexes`. Raises IndexDataError where it is another, or none."""
    return Manifest.read(index_folder(lake, row), sha256=row.manifest_sha256)


def is_of_vectors(row: Any, *, table_id: str) -> bool:
    """Whether the index of a row of `indexes` was built from the table `vectors` of this id; rows of older lakes do not
    tell.
    """
    return row.vectors_table_id in (None, table_id)


def require_of_vectors(lake: Lake, row: Any) -> None:
    """Raise IndexDataError where an index was built from another table `vectors`: its numbers name other rows now."""
    if row.vectors_table_id is not None and not is_of_vectors(
        row, table_id=lake.table_id("vectors")
    ):
        raise IndexDataError(
            f"index {row.index_id} was built from another table {lake.name('vectors')}, which was dropped and made again "
            "since: its rows are others. Build one of the new table with gme-lake build-index"
        )


def whole_manifest(lake: Lake, row: Any) -> Manifest:
    """As `read_manifest`, where every file that it names is there with its length and `vectors` is the table that it was
    built from. Raises IndexDataError.
    """
    require_of_vectors(lake, row)
    manifest = read_manifest(lake, row)
    if missing := manifest.missing_files():
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise IndexDataError(
            f"index {row.index_id} is not whole: {', '.join(missing[:_SHOWN])}{more}; restore its files, or build it "
            "again with gme-lake build-index"
        )
    return manifest


def index_age(lake: Lake, manifest: Manifest) -> Age:
    """Compare an index with the newest version of `vectors`. Raises IndexDataError where its ids cannot be read."""
    version, indexed = lake.version("vectors"), manifest.rows
    if version == manifest.spec.vectors_version:
        return Age(indexed, 0, indexed, 0)
    differing = differing_ids(lake, manifest, version=version)
    with clear_task_errors():
        counted = {r.is_new: int(r["n"]) for r in differing.groupBy("is_new").agg(
            F.count(F.lit(1)).alias("n")
        ).collect()}  # fmt: skip
    missing, gone = counted.get(True, 0), counted.get(False, 0)
    return Age(indexed - gone + missing, missing, indexed, gone)


def differing_ids(lake: Lake, manifest: Manifest, *, version: int) -> DataFrame:
    """(vector_id, is_new): rows that `vectors` has at a version and the index has not, and the other way round.

    The index's own rows are read: nothing is asked of the version that it was built from, whose files may be gone.
    """
    spark, spec = lake.spark, manifest.spec
    shards = len(manifest.all_shards(spec.root))
    rows = lake.read("vectors", version=version)
    live = rows.where((F.col("model_id") == spec.model_id) & (F.col("status") == "ok"))
    numbers = spark.range(shards).repartition(shards)
    indexed = on_executors(numbers, indexed_ids, root=spec.root).frame
    both = live.select("vector_id", F.lit(True).alias("is_live")).join(
        indexed.withColumn("is_indexed", F.lit(True)), "vector_id", "full"
    )
    differing = both.where("is_live IS NULL OR is_indexed IS NULL")
    return differing.selectExpr("vector_id", "is_indexed IS NULL AS is_new")


def index_drift(lake: Lake, manifest: Manifest) -> float | None:
    """How many times as much the quantizer loses of the model's rows that the index lacks as of those it was trained on.

    None where no row is missing, or nothing was trained. Raises IndexDataError where files cannot be read.
    """
    if not manifest.error:
        return None
    version = lake.version("vectors")
    missing = differing_ids(lake, manifest, version=version).where("is_new").select("vector_id")
    rows = lake.read("vectors", version=version)
    rows = rows.where(F.col("model_id") == manifest.spec.model_id).join(missing, "vector_id")
    with clear_task_errors():
        if not rows.head(1):
            return None
    return quantizer_loss(manifest, rows) / manifest.error


def quantizer_loss(manifest: Manifest, rows: DataFrame) -> float:
    """Mean squared distance of a sample of `rows` (vector_id, embedding) from what the index's quantizer keeps of them."""
    spec = manifest.spec
    hashed = F.xxhash64("vector_id", F.lit(spec.plan.seed))
    sample = rows.orderBy(hashed).limit(SAMPLE_ROWS).select("embedding").repartition(1)
    drift = DriftSpec(manifest.base_root(spec.root), manifest.quantizer, dim=spec.dim)
    missing = IndexDataError(f"index {spec.index_id}: new rows were not measured; run it again")
    return float(on_executors(sample, drift_batches, spec=drift).one_row(missing).error)


@again_on_conflict
def delete_rows(lake: Lake, table: str, index_ids: Collection[str]) -> None:
    """Delete the rows of some indexes from `indexes` or `index_shards`."""
    listed = ", ".join(literal(index_id) for index_id in sorted(index_ids))
    lake.spark.sql(f"DELETE FROM {lake.name(table)} WHERE index_id IN ({listed})")
