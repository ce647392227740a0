"""What was released before and is not needed any more: vectors of old models, and indexes."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import functions as F

from jobs.lake.conflicts import again_on_conflict
from jobs.lake.lake import Lake, delta_table, now
from jobs.lake.releases import newest_releases, rollback_targets
from jobs.lake.runs import Run
from jobs.lake.sql import literal
from jobs.settings.refresh import RefreshSettings
from jobs.stages.index.vacuum import Vacuum, plan_vacuum, vacuum

_DELTA_RETENTION_HOURS = 168  # Delta's safety check refuses less


@dataclass(frozen=True)
class Removal:
    """What no kept release needs: vector rows by model_id with about so many bytes, and indexes."""

    vectors: dict[str, int]
    vector_bytes: int
    indexes: Vacuum

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remove, mark or unmark."""
        found = self.indexes
        return not any(
            (self.vectors, found.indexes, found.folders, found.left, found.marked, found.kept)
        )

    def __str__(self) -> str:
        rows = ", ".join(f"{count:,} of model {name}" for name, count in self.vectors.items())
        return f"vector rows: {rows or 'none'}; {self.indexes}"


def plan_removal(lake: Lake, refresh: RefreshSettings, *, keep: Collection[str]) -> Removal:
    """Find what section `refresh` lets go of. Models of `keep` stay whatever the releases say."""
    retain = timedelta(days=refresh.keep_days)
    releases = newest_releases(lake, limit=None)
    models = list(dict.fromkeys(release.model_id for release in releases))[: refresh.keep_releases]
    back = [release.model_id for release in rollback_targets(releases)[: refresh.keep_releases]]
    needed = {*keep, *models, *back}
    last: Any = F.max("embedded_at").alias("last")
    size = F.sum(F.coalesce(F.size("embedding"), F.lit(0))).alias("floats")
    rows = lake.read("vectors").groupBy("model_id").agg(F.count(F.lit(1)).alias("rows"), last, size)
    # Newest first, so that of each model the last one stays.
    released = {r.model_id: r.released_at for r in reversed(releases) if r.released_at}
    oldest = now() - retain
    vectors, floats = {}, 0
    for row in rows.collect():
        times = [row.last, *([released[row.model_id]] if row.model_id in released else [])]
        if row.model_id not in needed and max(t.timestamp() for t in times) <= oldest.timestamp():
            vectors[row.model_id] = int(row.rows)
            floats += int(row.floats or 0)
    indexes = plan_vacuum(lake, releases=refresh.keep_releases, retain=retain)
    return Removal(vectors, 4 * floats, indexes)


def remove(lake: Lake, run: Run, removal: Removal, *, keep_days: float) -> None:
    """Do what `plan_removal` found: rows of `vectors`, then indexes in the two steps of vacuum-indexes.

    Files of rows that were removed more than `keep_days` (and at least the seven days of Delta's retention) ago go from
    disk, by a VACUUM each time that long has passed: it lists the whole table. A run that embeds with such a model at
    this moment finds rows missing when it counts them, and says so.
    """
    for model_id, rows in removal.vectors.items():
        _remove_vectors(lake, model_id)
        run.counts["vectors_removed"] += rows
    vacuum(lake, run, removal.indexes)
    hours = max(_DELTA_RETENTION_HOURS, 24 * keep_days)
    table = delta_table(lake.spark, lake.name("vectors"))
    if _vacuum_is_due(table, hours=hours):
        table.vacuum(hours)


def _vacuum_is_due(table: DeltaTable, *, hours: float) -> bool:
    """Whether the last VACUUM, or where there was none the oldest commit that the log has, is longer ago than `hours`."""
    rows = table.history().select("timestamp", "operation").collect()
    ended = [row.timestamp for row in rows if row.operation == "VACUUM END"]
    since = max(ended) if ended else min(row.timestamp for row in rows)
    return bool(since.timestamp() < time.time() - 3600 * hours)


@again_on_conflict
def _remove_vectors(lake: Lake, model_id: str) -> None:
    """A MERGE, as those are the commits after which other models' runs still know what is proved; see history.py."""
    lake.spark.sql(
        f"MERGE INTO {lake.name('vectors')} t USING (SELECT {literal(model_id)} AS model_id) s "
        f"ON t.model_id = s.model_id AND t.model_id = {literal(model_id)} WHEN MATCHED THEN DELETE"
    )
