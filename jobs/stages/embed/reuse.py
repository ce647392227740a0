"""Vectors that the model already made of a content: in `vectors` as it is, and in rows that it has lost since."""

from __future__ import annotations

import logging
from functools import cached_property, reduce

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.driver.task_errors import is_broken_off
from jobs.lake.lake import delta_table
from jobs.stages.embed.work import Embedding, read_contents

log = logging.getLogger("gme_lake")

_VECTOR = ("content_hash", "status", "error", "embedding")
# Commits of `vectors` that took rows away, newest first, whose rows are looked for: a source that was overwritten and
# restored is as many commits back as its runs have micro-batches.
_COMMITS = 200


class LostContents:
    """Good vectors that `vectors` has lost and its change feed still has; looked for when they are first asked for."""

    def __init__(self, job: Embedding) -> None:
        self._job = job

    @cached_property
    def frame(self) -> DataFrame | None:
        """(content_hash, vector_id, commit) in files, or None where there are none.

        A feed that VACUUM has cut is no error: what it lacks is embedded again.
        """
        job = self._job
        history = delta_table(job.lake.spark, job.lake.name("vectors")).history()
        merges = history.where(
            "operation = 'MERGE' AND operationMetrics['numTargetRowsDeleted'] > 0"
        )
        newest = merges.select("version").orderBy(F.desc("version")).head(_COMMITS)
        commits = [int(row[0]) for row in newest]
        if not commits:
            return None
        folder = f"{job.staging}/lost"
        last = F.max_by(
            F.struct("vector_id", F.col("_commit_version").alias("commit")), "_commit_version"
        )
        try:
            lost = _lost_rows(job, low=min(commits), high=max(commits))
            rows = lost.groupBy("content_hash").agg(last.alias("row"))
            rows.select("content_hash", "row.*").write.mode("overwrite").parquet(folder)
        except Exception as error:  # files and versions that are gone have many names
            if is_broken_off(error):
                raise
            log.info(
                "rows that vectors had before cannot be copied, as its change feed is not all there (%s: %.200s)",
                type(error).__name__,
                error,
            )
            return None
        return job.lake.spark.read.parquet(folder)


def stage_reused(
    job: Embedding, pending: DataFrame, *, lost: LostContents, folder: str, pinned: int
) -> DataFrame | None:
    """The vectors of pending contents that need no model: (content_hash, status, error, embedding); None for none."""
    wanted = pending.select("content_hash").distinct()
    known = read_contents(job, version=pinned).where("status = 'ok'").join(wanted, "content_hash")
    matches = known.groupBy("content_hash").agg(
        F.min("vector_id").alias("vector_id"), F.lit(None).cast("bigint").alias("commit")
    )
    if lost.frame is not None:
        again = lost.frame.join(F.broadcast(wanted), "content_hash")
        matches = matches.unionByName(again.join(matches, "content_hash", "left_anti"))
    bounds = Observation()
    present = F.when(F.col("commit").isNull(), F.col("vector_id"))
    matches = matches.observe(
        bounds,
        F.min(present).alias("low_id"),
        F.max(present).alias("high_id"),
        F.min("commit").alias("low_commit"),
        F.max("commit").alias("high_commit"),
    )
    matches.write.mode("overwrite").parquet(f"{folder}/reused")
    reused = pending.sparkSession.read.parquet(f"{folder}/reused")
    parts, found = [], bounds.get
    if found["low_id"] is not None:
        low, high = found["low_id"], found["high_id"]
        here = reused.where("commit IS NULL")
        parts.append(_present_vectors(job, here, low=low, high=high, pinned=pinned))
    if found["low_commit"] is not None:
        low, high = found["low_commit"], found["high_commit"]
        parts.append(_lost_vectors(job, reused.where("commit IS NOT NULL"), low=low, high=high))
    return reduce(lambda one, other: one.unionByName(other), parts) if parts else None


def _present_vectors(
    job: Embedding, reused: DataFrame, *, low: int, high: int, pinned: int
) -> DataFrame:
    # The literal bounds let Delta skip files by their statistics; the vectors column is wide.
    vectors = job.lake.read("vectors", version=pinned).where(F.col("model_id") == job.model_id)
    vectors = vectors.where(F.col("vector_id").between(low, high))
    vectors = vectors.select("vector_id", "status", "error", "embedding")
    return vectors.join(F.broadcast(reused), "vector_id").select(*_VECTOR)


def _lost_vectors(job: Embedding, reused: DataFrame, *, low: int, high: int) -> DataFrame:
    rows = _lost_rows(job, low=low, high=high).drop("content_hash")
    found = rows.join(F.broadcast(reused), "vector_id")
    return found.where("_commit_version = commit").select(*_VECTOR)


def _lost_rows(job: Embedding, *, low: int, high: int) -> DataFrame:
    """The model's good rows that commits of `vectors` have deleted."""
    feed = job.lake.spark.read.format("delta").option("readChangeFeed", "true")
    feed = feed.option("startingVersion", low).option("endingVersion", high)
    rows = feed.table(job.lake.name("vectors")).where(F.col("model_id") == job.model_id)
    return rows.where("_change_type = 'delete' AND status = 'ok'")
