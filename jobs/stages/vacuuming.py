"""Removal of indexes that nothing needs any more, and of the folders that killed runs left in the lake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jobs.driver.lake import now
from jobs.stages.indexing.commit import delete_rows
from udfs import storage

if TYPE_CHECKING:
    from jobs.driver.lake import Lake
    from jobs.driver.runs import Run


@dataclass(frozen=True)
class Vacuum:
    """What is to be removed: indexes by index_id, the folders of those and of killed runs, and the bytes in them."""

    indexes: tuple[str, ...]
    folders: tuple[str, ...]
    bytes: int

    def __str__(self) -> str:
        head = f"{len(self.indexes)} index(es), {len(self.folders)} folder(s), {self.bytes:,} bytes"
        return "\n  ".join([head, *self.folders])


def plan_vacuum(lake: Lake, *, releases: int, retain: timedelta) -> Vacuum:
    """Find what nothing needs. Kept are the indexes of the newest `releases` different releases, the newest index of
    each model, what any of those adds to, and everything younger than `retain`.

    A folder is as old as the newest file in it; where a store does not tell that, the folder is kept.
    """
    from pyspark.sql import functions as F

    oldest = (now() - retain).timestamp()
    columns = ("index_id", "model_id", "root", "params")
    built = F.col("built_at").cast("double").alias("built")
    rows = lake.read("indexes").select(*columns, built).collect()
    young = {row.index_id for row in rows if row.built >= oldest}
    needed = _with_bases(rows, {*_released(lake, limit=releases), *_newest(rows), *young})
    gone = {row.index_id: row.root for row in rows if row.index_id not in needed}
    sizes = {root: storage.usage(root).bytes for root in gone.values()}
    for path in _left(lake, known={row.index_id for row in rows}):
        found = storage.usage(path)
        if found.changed is not None and found.changed < oldest:
            sizes[path] = found.bytes
    return Vacuum(tuple(gone), tuple(sorted(sizes)), sum(sizes.values()))


def vacuum(lake: Lake, run: Run, planned: Vacuum) -> None:
    """Remove what `plan_vacuum` found: the rows of `indexes` first, so that nothing names a folder that is gone."""
    run.counts.update(
        {
            "indexes_removed": len(planned.indexes),
            "folders_removed": len(planned.folders),
            "bytes_removed": planned.bytes,
        }
    )
    if planned.indexes:
        run.begin()
        for table in ("indexes", "index_shards"):
            delete_rows(lake, table, planned.indexes)
    for folder in planned.folders:
        storage.remove_folder(folder)


def _released(lake: Lake, *, limit: int) -> list[str]:
    """Indexes of the newest releases that differ: a rollback passes over those that show the same."""
    rows = lake.read("releases").where("index_id IS NOT NULL")
    newest = rows.groupBy("index_id").agg({"release_id": "max"}).toDF("index_id", "release_id")
    return [row.index_id for row in newest.orderBy("release_id", ascending=False).head(limit)]


def _newest(rows: list[Any]) -> set[str]:
    """What promote takes of each model: the index built last."""
    ordered = sorted(rows, key=lambda row: float(row.built))
    return set({row.model_id: row.index_id for row in ordered}.values())


def _with_bases(rows: list[Any], index_ids: set[str]) -> set[str]:
    bases = {_base(row) for row in rows if row.index_id in index_ids}
    return index_ids | {base for base in bases if base is not None}


def _base(row: Any) -> str | None:
    base: str | None = json.loads(row.params).get("base")
    return base


def _left(lake: Lake, *, known: set[str]) -> Iterator[str]:
    """Folders of intermediate files, and of indexes that were not committed: by name, as a lake may have been moved."""
    for parent, kept in ((lake.folder("indexes"), known), (lake.folder("staging"), set())):
        yield from (
            storage.join(parent, name) for name in storage.names(parent) if name not in kept
        )
