"""What earlier runs have done with a source table and its model, and what the table's commits did since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.driver.lake import delta_table
from udfs.errors import LakeError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.driver.lake import Lake
    from jobs.stages.embedding.source import Source


@dataclass(frozen=True)
class Earlier:
    """`done`: source version up to which a run has finished, None before the first; `rescan`: look at every row again."""

    done: int | None
    rescan: bool


def source_runs(lake: Lake, *, model_id: str) -> DataFrame:
    """The events of embed_table's runs that read a source for the model."""
    from pyspark.sql import functions as F

    runs = lake.read("run_events").where("job = 'embed_table' AND source_table IS NOT NULL")
    return runs.where(F.col("model_id") == model_id)


def earlier_runs(lake: Lake, source: Source, *, model_id: str, key: str) -> Earlier:
    """What there is to go on from. Where another table was embedded since, this one begins anew.

    Raises LakeError where the model's vectors in this lake are another table's, as ids that a source lacks lose their
    vectors, unless `embed.replace_source` says that this is wanted.
    """
    from pyspark.sql import functions as F

    runs = source_runs(lake, model_id=model_id)
    tables = runs.groupBy("source_table").agg(F.max("started_at"))
    started = {row[0]: row[1] for row in tables.collect()}
    newest = max(started, key=lambda table: started[table], default=source.table)
    if newest != source.table:
        _require_wanted(lake, source, held=newest, model_id=model_id)
    ended = runs.where((F.col("source_key") == key) & (F.col("status") == "succeeded"))
    ended = ended.where("counts['source_rows'] IS NOT NULL").orderBy(F.desc("started_at"))
    last = ended.select("source_version", "counts", "started_at").first()
    others = [start for table, start in started.items() if table != source.table]
    if last is None or any(start > last.started_at for start in others):
        return Earlier(None, rescan=bool(others))
    # Deleting one of two rows with the same id leaves the other one, which no change tells of.
    return Earlier(int(last.source_version), rescan="duplicates" in last.counts)


def _require_wanted(lake: Lake, source: Source, *, held: str, model_id: str) -> None:
    from pyspark.sql import functions as F

    vectors = lake.read("vectors").where(F.col("model_id") == model_id)
    if lake.settings.embed.replace_source or not vectors.head(1):
        return
    raise LakeError(
        f"{lake.name('vectors')} holds vectors of {held} made by model {model_id}; embedding {source.table} into it would "
        "remove them. Give it a lake of its own (lake.root, lake.schema), or set embed.replace_source=true where it "
        "takes the other's place"
    )


def append_only(lake: Lake, source: Source, *, since: int) -> bool:
    """Whether every commit after `since` only added rows or moved them between files."""
    history = delta_table(lake.spark, source.table).history()
    commits = history.where(f"version > {since}").select(
        "version", "operation", "operationParameters"
    )
    rows = commits.collect()
    # A history that was cleaned up says nothing about the commits it no longer lists.
    complete = len(rows) >= source.version - since
    return complete and all(_only_adds(r.operation, r.operationParameters or {}) for r in rows)


def _only_adds(operation: str, parameters: dict[str, str]) -> bool:
    if operation in {"WRITE", "STREAMING UPDATE"}:
        return parameters.get("mode", parameters.get("outputMode")) == "Append"
    return operation in {
        "OPTIMIZE",
        "VACUUM START",
        "VACUUM END",
        "SET TBLPROPERTIES",
        "ADD COLUMNS",
    }
