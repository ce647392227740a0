"""One micro-batch: find rows without an up-to-date vector, embed each distinct content once, commit once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.driver.progress import rows_from_executors
from jobs.stages.embed.accounts import require_few_rejected
from jobs.stages.embed.commit import commit
from jobs.stages.embed.pending import (
    last_contents,
    model_inputs,
    newest_contents,
    one_a_content,
    pending_contents,
)
from jobs.stages.embed.reuse import LostContents, stage_reused
from jobs.stages.embed.run_model import embed_rows
from jobs.stages.embed.work import Embedding, read_stored


@dataclass(frozen=True)
class Looked:
    """What one micro-batch came to, in rows."""

    looked_at: int
    written: int
    embedded: int
    copied: int
    rejected: int


def embed_changes(job: Embedding, rows: DataFrame, *, name: str, lost: LostContents) -> Looked:
    """Bring the vectors of `rows` that are selected up to date; `lost` are vectors that the model made before.

    What is written follows from comparing the rows with `vectors`, so that the same rows again change nothing.
    Everything between the stages is written to the staging folder first: each is computed once, and the commit
    reads only files.
    """
    folder = f"{job.staging}/{name}"
    pinned = job.lake.version("vectors")
    with job.run.stage("hash"):
        selected = _select(job, rows, folder=folder)
        if selected is None:
            return Looked(0, 0, 0, 0, 0)
        pending, sizes = _stage_pending(job, selected, folder=folder, pinned=pinned)
    looked_at, total, replaced = sizes["looked_at"], sizes["pending"], sizes["replaced"]
    if total == 0:
        return Looked(looked_at, 0, 0, 0, 0)
    with job.run.stage("embed"):
        reused = stage_reused(job, pending, lost=lost, folder=folder, pinned=pinned)
        embedded = _stage_embedded(job, selected, pending, reused=reused, folder=folder)
        made = embedded.count()
    with job.run.stage("commit"):
        vectors = embedded.select("content_hash", "status", "error", "embedding")
        if reused is not None:
            vectors = vectors.unionByName(reused)
        staged = pending.join(vectors, "content_hash")
        rejected = _rejected(staged)
        if not job.tries_again:  # most of those that are tried again are rejected again
            counts = job.run.counts
            require_few_rejected(
                job,
                rejected=job.rejected + rejected,
                rows=counts["embedded"] + counts["copied"] + total,
                said="of this run (the last micro-batch was not committed)",
            )
        commit(job, staged, rows=total, replaces=replaced > 0)
    written = 4 * job.spec.model.dim * (total - rejected.total())
    job.run.add_metric("bytes_written", written)
    job.rejected.update(rejected)
    return Looked(looked_at, total, made, total - made, rejected.total())


def _select(job: Embedding, rows: DataFrame, *, folder: str) -> DataFrame | None:
    """The rows whose ids are selected, None where there are none; ids alone are compared, so that no picture is shuffled."""
    if job.selected is None:
        return rows
    ids = rows.select("id").join(job.selected, "id", "left_semi").distinct()
    ids.write.mode("overwrite").parquet(f"{folder}/selected")
    ids = rows.sparkSession.read.parquet(f"{folder}/selected")
    return rows.join(F.broadcast(ids), "id", "left_semi") if ids.head(1) else None


def _rejected(staged: DataFrame) -> Counter[str]:
    """Rejected rows by status."""
    rows = staged.where("status <> 'ok'").groupBy("status").agg(F.count(F.lit(1)).alias("n"))
    return Counter({row.status: int(row.n) for row in rows.collect()})


def _stage_pending(
    job: Embedding, rows: DataFrame, *, folder: str, pinned: int
) -> tuple[DataFrame, dict[str, int]]:
    """(id, row_hash, content_hash, replaced_id) of rows whose content has no vector row yet; and numbers of rows.

    `replaced_id` is the vector_id of the row's vector so far, null for an id that has none. The numbers are those looked
    at, those pending, and those of the latter that replace a vector row.
    """
    seen, left = Observation(), Observation()
    contents = job.source.contents(rows).observe(seen, F.count(F.lit(1)).alias("looked_at"))
    if job.superseded is not None:
        contents = last_contents(contents, job.superseded)
    current = newest_contents(contents)
    pending = pending_contents(current, read_stored(job, version=pinned))
    staged = pending.select("id", "row_hash", "content_hash", "replaced_id")
    staged = staged.observe(
        left, F.count(F.lit(1)).alias("pending"), F.count("replaced_id").alias("replaced")
    )
    staged.write.mode("overwrite").parquet(f"{folder}/pending")
    sizes = {key: int(value) for key, value in (seen.get | left.get).items()}
    return rows.sparkSession.read.parquet(f"{folder}/pending"), sizes


def _stage_embedded(
    job: Embedding, rows: DataFrame, pending: DataFrame, *, reused: DataFrame | None, folder: str
) -> DataFrame:
    """Embed one row of every distinct pending content; one scan of the images, no shuffle of them."""
    chosen = one_a_content(pending)
    if reused is not None:
        chosen = chosen.join(reused.select("content_hash"), "content_hash", "left_anti")
    scan = job.source.add_row_hash(rows).join(F.broadcast(chosen), ["id", "row_hash"])
    told = f"{folder}/progress"
    spec = replace(job.spec, progress=told)
    with rows_from_executors(job.progress, told):
        made = embed_rows(job.run, model_inputs(scan), spec=spec, folder=f"{folder}/embedded")
    job.run.counts["model_servers"] = len(job.run.work.servers)
    # The same row twice in one micro-batch was embedded twice; both vectors are the same.
    return made.withColumnRenamed("key", "content_hash").dropDuplicates(["content_hash"])
