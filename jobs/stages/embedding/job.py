"""embed_table from start to end: resume the stream, embed what changed, remove what is gone, write back."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.driver.lake import Lake, table_version
from jobs.driver.progress import RowProgress
from jobs.driver.tasks import clear_task_errors
from jobs.stages.embedding.changes import Looked, embed_changes
from jobs.stages.embedding.commit import clear_conflicts, remove_deleted
from jobs.stages.embedding.history import append_only, earlier_runs
from jobs.stages.embedding.source import Source
from jobs.stages.embedding.work import Embedding
from jobs.stages.embedding.write_back import write_back
from udfs import storage
from udfs.specs import EmbedSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.driver.registry import ResolvedModel
    from jobs.driver.runs import Run

log = logging.getLogger("gme_lake")


@dataclass(frozen=True)
class EmbedReport:
    """What a run of embed_table came to, in rows."""

    unchanged: bool
    source_version: int
    counts: dict[str, int]

    def __str__(self) -> str:
        if self.unchanged:
            return f"nothing changed: source version {self.source_version} is already embedded"
        shown = ", ".join(
            f"{count:,} {name.replace('_', ' ')}" for name, count in self.counts.items()
        )
        return f"source version {self.source_version}: {shown}"


def embed_table(lake: Lake, run: Run, *, model: ResolvedModel) -> EmbedReport:
    """Bring the model's vectors up to date with the source table, exactly once.

    Killed at any point and run again, `vectors` is what one clean run would have written. Raises LakeError for a
    source that cannot be read, another run writing at the same time, and vectors of another source table.
    """
    settings = lake.settings
    source = Source.open(lake)
    run.model = model
    key = _source_key(source, model.spec.model_id)
    earlier = earlier_runs(lake, source, model_id=model.spec.model_id, key=key)
    run.source_table, run.source_version, run.source_key = source.table, source.version, key
    rescan = settings.embed.rescan or (settings.source.recheck_files and source.has_files)
    if earlier.done == source.version and not rescan:
        return EmbedReport(True, source.version, {})
    rescan = rescan or earlier.rescan
    spec = EmbedSpec(
        model.spec, settings.serving.spec(), max_image_bytes=settings.embed.max_image_bytes
    )
    staging = lake.folder("staging", run.run_id)
    job = Embedding(lake, run, source, spec, staging, retry_rejected=settings.embed.rescan)
    try:
        with clear_conflicts(source.table), clear_task_errors():
            _embed_all(job, rescan=rescan, first=earlier.done is None)
            if earlier.done is None or not append_only(lake, source, since=earlier.done):
                with run.stage("delete"):
                    end = table_version(lake.spark, source.table)
                    run.counts["deleted"] = remove_deleted(job, source_version=end)
            with run.stage("write back"):
                write_back(job)
    finally:
        storage.remove_folder(staging)
    return EmbedReport(False, source.version, dict(run.counts))


def _embed_all(job: Embedding, *, rescan: bool, first: bool) -> None:
    lake, source, run = job.lake, job.source, job.run
    rows = source.read(lake.spark, version=source.version)
    total = rows.count()
    doubles = _duplicate_ids(job, total=total)
    # How many rows a change feed will bring is known when it has brought them.
    whole = first or rescan or not source.has_cdf
    name = source.table.rsplit("/", 1)[-1]
    progress = RowProgress(f"embed {name}", total=total if whole else None)
    job = replace(job, progress=progress)
    run.counts.update({"source_rows": total, "embedded": 0, "copied": 0, "rejected": 0})
    try:
        _stream(job, doubles, progress=progress, rescan=rescan)
        if doubles is not None:
            winners = source.rows(rows).join(doubles.select("id"), "id")
            looked = embed_changes(
                job, winners, name="duplicates", txn=(f"gme-lake/{run.run_id}", 0)
            )
            _count(run.counts, looked, progress)
    finally:
        progress.close()


def _stream(
    job: Embedding, doubles: DataFrame | None, *, progress: RowProgress, rescan: bool
) -> None:
    """Run the source's stream to its present end; each micro-batch is committed before the next begins."""
    settings = job.lake.settings.embed
    source = job.source
    checkpoint = _checkpoint(job, rescan=rescan)
    failures: list[Exception] = []

    def one_batch(frame: DataFrame, batch_id: int) -> None:
        rows = source.rows(frame).where("id IS NOT NULL")
        if "_change_type" in rows.columns:
            rows = rows.where("_change_type IN ('insert', 'update_postimage')")
        if doubles is not None:
            rows = rows.join(doubles.select("id"), "id", "left_anti")
        stream_id = _stream_id(job.lake, checkpoint)
        try:
            looked = embed_changes(
                job, rows, name=f"batch-{batch_id}", txn=(f"gme-lake/{stream_id}", batch_id)
            )
        except Exception as error:
            failures.append(error)
            # Spark looks through its text with a regular expression that overflows the JVM's stack on a long one.
            raise RuntimeError("the micro-batch failed") from None
        _count(job.run.counts, looked, progress)

    stream = source.stream(
        job.lake.spark,
        files=settings.files_per_batch,
        size=settings.bytes_per_batch,
        changes=not rescan,
    )
    query = (
        stream.writeStream.foreachBatch(one_batch)
        .option("checkpointLocation", checkpoint)
        .trigger(availableNow=True)
        .start()
    )
    try:
        query.awaitTermination()
    except Exception:
        if failures:
            raise failures[0] from None
        raise
    finally:
        query.stop()
    if rescan:
        storage.remove_folder(checkpoint)


def _checkpoint(job: Embedding, *, rescan: bool) -> str:
    """One stream per source, model and column mapping; without a change feed also per source version."""
    parts = [job.run.source_key or ""]
    if rescan:
        parts.append(f"rescan-{job.run.run_id}")
    elif not job.source.has_cdf:
        parts.append(f"version-{job.source.version}")
    else:
        parts.append("changes")
    return job.lake.folder("streams", *parts)


def _stream_id(lake: Lake, checkpoint: str) -> str:
    """The id Spark gave the stream; a deleted checkpoint gets another, so batch numbers never collide."""
    row = lake.spark.read.json(f"{checkpoint}/metadata").first()
    return str(row.id) if row else checkpoint


def _duplicate_ids(job: Embedding, *, total: int) -> DataFrame | None:
    """Ids that more than one source row has, (id, rows); counts them and the rows without id."""
    from pyspark.sql import functions as F

    spark = job.lake.spark
    ids = job.source.ids(spark, version=job.source.version)
    counted = ids.groupBy("id").agg(F.count(F.lit(1)).alias("rows")).where("rows > 1")
    folder = f"{job.staging}/duplicate-ids"
    counted.write.mode("overwrite").parquet(folder)
    doubles = spark.read.parquet(folder)
    extra = doubles.agg(F.sum(F.col("rows") - 1)).first()
    without_id = total - ids.count()
    if without_id:
        job.run.counts["without_id"] = without_id
        log.warning("%d rows of %s have no id and were left out", without_id, job.source.table)
    if not extra or not extra[0]:
        return None
    job.run.counts["duplicates"] = int(extra[0])
    shown = ", ".join(str(row.id) for row in doubles.orderBy("id").head(5))
    log.warning(
        "%d rows of %s repeat an id of another row (%s, …): one row of each id is embedded",
        extra[0],
        job.source.table,
        shown,
    )
    return doubles


def _count(counts: Counter[str], looked: Looked, progress: RowProgress) -> None:
    counts["embedded"] += looked.embedded
    counts["copied"] += looked.copied
    counts["rejected"] += looked.rejected
    progress.add(looked.looked_at, rejected=looked.rejected)


def _source_key(source: Source, model_id: str) -> str:
    table = hashlib.sha256(source.table.encode()).hexdigest()[:12]
    return f"{table}-{source.columns_key}-{model_id}"
