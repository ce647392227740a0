"""The ids that one run looks at, where it does not look at all: by predicate, by the statuses to retry, by the limit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.lake.lake import Lake
from jobs.settings.embed import REJECTED
from jobs.stages.embed.accounts import SourceIds
from jobs.stages.embed.pending import first_contents, newest_contents, pending_contents
from jobs.stages.embed.source import Source
from jobs.stages.embed.work import Embedding, read_contents, read_stored
from udfs.errors import LakeError
from udfs.gme.images import REASONS

# Statuses that rows may have at any time: one that no row has is nothing to retry, and no mistake.
_STATUSES = {"empty", "not_utf8", "too_slow", *(f"image_{reason}" for reason in REASONS)}


@dataclass(frozen=True)
class ChosenIds:
    """`ids` (id) are looked at, `rows` of them, in files; None: all. `pending` (id, content_hash): with a limit, the
    rows that had no up-to-date vector, looked at or not.
    """

    ids: DataFrame | None = None
    rows: int | None = None
    pending: DataFrame | None = None

    def left(self, job: Embedding) -> DataFrame | None:
        """(id) of pending rows that have no up-to-date vector yet; None without a limit."""
        if self.pending is None:
            return None
        stored = read_contents(job, version=job.lake.version("vectors"))
        return self.pending.join(stored, ["id", "content_hash"], "left_anti").select("id")


def choose_ids(job: Embedding, ids: SourceIds, *, version: int) -> ChosenIds:
    """What the run looks at of the source's `ids` at a version. Raises LakeError for statuses that no row can have."""
    selection = job.source.selection
    if selection.is_whole:
        return ChosenIds()
    chosen = ids.counted.where("inside").select("id")
    if selection.retry:
        chosen = chosen.join(_rejected_ids(job), "id", "left_semi")
    pending = None
    if selection.limit is not None:
        pending = _stage_pending(job, ids, version=version)
        known = read_contents(job, version=job.lake.version("vectors")).where("status = 'ok'")
        first = first_contents(pending, known, selection, limit=selection.limit)
        chosen = pending.join(first, "content_hash", "left_semi").select("id")
    folder = f"{job.staging}/chosen-{version}"
    chosen.write.mode("overwrite").parquet(folder)
    chosen = job.lake.spark.read.parquet(folder)
    return ChosenIds(chosen, chosen.count(), pending)


def choose_again(
    job: Embedding, ids: SourceIds, chosen: ChosenIds, *, version: int
) -> tuple[ChosenIds, DataFrame | None]:
    """The same of the `version` that a source has reached meanwhile, and the ids (id) that are looked at by it alone.

    What was first, or rejected, when the run began stays the run's; what has come since is left.
    """
    selection = job.source.selection
    if chosen.ids is None:
        return chosen, None
    if selection.limit is not None:
        return replace(chosen, pending=_stage_pending(job, ids, version=version)), None
    if selection.retry:
        return chosen, None
    now = choose_ids(job, ids, version=version)
    return now, None if now.ids is None else now.ids.join(chosen.ids, "id", "left_anti")


def statuses_to_retry(lake: Lake, source: Source, *, model_id: str) -> list[str]:
    """The statuses of the model's vector rows that `embed.retry` names. Raises LakeError for one that no row can have."""
    rejected = lake.read("vectors").where(
        (F.col("model_id") == model_id) & (F.col("status") != "ok")
    )
    rows = rejected.groupBy("status").agg(F.count(F.lit(1)).alias("n")).orderBy("status").collect()
    there = {row.status: int(row.n) for row in rows}
    asked = set(source.selection.retry)
    unknown = sorted(asked - _STATUSES - set(there) - {REJECTED})
    if unknown:
        said = ", ".join(f"{count:,} {status}" for status, count in there.items())
        raise LakeError(
            f"embed.retry={','.join(unknown)}: no row of {source.table} was rejected with that status; there are "
            f"{said or 'no rejected rows'}"
        )
    return sorted(there if REJECTED in asked else asked & set(there))


def contents_inside(
    source: Source, ids: DataFrame, frame: DataFrame, *, repeated: bool
) -> DataFrame:
    """`newest_contents` of a snapshot's rows whose `ids` (Source.ids) are inside; `repeated`: whether several rows
    share one.
    """
    if not repeated:  # else a row outside may be the one of its id that is embedded
        frame = frame.where(source.selection.inside())
    current = newest_contents(source.contents(source.rows(frame).where("id IS NOT NULL")))
    return current.join(ids.where("inside").select("id", "rank"), "id")


def _rejected_ids(job: Embedding) -> DataFrame:
    statuses = statuses_to_retry(job.lake, job.source, model_id=job.model_id)
    stored = read_contents(job, version=job.lake.version("vectors"))
    return stored.where(F.col("status").isin(statuses)).select("id")


def _stage_pending(job: Embedding, ids: SourceIds, *, version: int) -> DataFrame:
    """(id, content_hash, rank) of all rows inside that have no up-to-date vector, once, into the staging folder."""
    spark = job.lake.spark
    frame = job.source.read(spark, version=version)
    current = contents_inside(job.source, ids.counted, frame, repeated=ids.repeated > 0)
    pending = pending_contents(current, read_stored(job, version=job.lake.version("vectors")))
    folder = f"{job.staging}/pending-{version}"
    pending.select("id", "content_hash", "rank").write.mode("overwrite").parquet(folder)
    return spark.read.parquet(folder)
