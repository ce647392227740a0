"""embed_table from start to end: resume the stream, embed what changed, remove what is gone, write back."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.driver.progress import RowProgress
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.claims import claim
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.settings.embed import EmbedSettings, SourceSettings
from jobs.stages.embed.accounts import (
    Accounts,
    SourceIds,
    compare_ids,
    count_source,
    require_closed,
    require_few_gone,
    require_few_rejected,
)
from jobs.stages.embed.changes import Looked, embed_changes
from jobs.stages.embed.chosen import ChosenIds, choose_again, choose_ids
from jobs.stages.embed.commit import clear_conflicts, remove_gone
from jobs.stages.embed.history import (
    Proof,
    TableState,
    read_standing,
    require_own_vectors,
)
from jobs.stages.embed.reuse import LostContents
from jobs.stages.embed.source import Source, source_table
from jobs.stages.embed.window import WindowStream, choose_window, superseded_ids
from jobs.stages.embed.work import Embedding
from jobs.stages.embed.write_back import write_back
from udfs import storage
from udfs.errors import LakeError
from udfs.specs import ServingSpec

log = logging.getLogger("gme_lake")

_WORDS = {"left": "rows left", "outside": "rows outside"}


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
            f"{count:,} {_WORDS.get(name, name.replace('_', ' '))}"
            for name, count in self.counts.items()
        )
        return f"source version {self.source_version}: {shown}"


def embed_table(
    lake: Lake,
    run: Run,
    *,
    model: ResolvedModel,
    source: SourceSettings,
    embed: EmbedSettings,
    serving: ServingSpec,
) -> EmbedReport:
    """Bring the model's vectors up to date with the source table, exactly once.

    Killed at any point and run again, `vectors` is what one clean run would have written. It returns only when every row
    of the source is accounted for, those that embed.where, limit and retry leave out too. Raises LakeError for a source
    that cannot be read, another run of the model in this lake, vectors of another source table, and more deleted or
    rejected rows than settings allow.
    """
    run.model = model
    opened, state = open_source(lake, source, embed)
    model_id = model.spec.model_id
    replaces = require_own_vectors(lake, opened, model_id=model_id, replace=embed.replace_source)
    rescan = opened.is_rescanned(embed)
    _require_whole(opened, replaces=replaces)
    proof = _identify(run, opened, embed, state=state)
    if proof.version == state.version and not rescan and not embed.retry:
        known = {"duplicates": proof.repeated, "outside": proof.outside}
        run.counts.update({name: count for name, count in known.items() if count})
        return EmbedReport(True, opened.version, {})
    name = f"{run.job}/{model_id}"
    spec = embed.spec(model.spec, serving, opened.reading)
    with (
        claim(run, name=name, timeout=embed.claim_seconds) as held,
        lake.staging(run.run_id) as staging,
        clear_conflicts(opened.table),
        clear_task_errors(),
    ):
        spec = replace(spec, notes=f"{staging}/slow-rows")
        job = Embedding(lake, run, opened, embed, spec, staging, held)
        _bring_up_to_date(job, rescan=rescan, replaces=replaces)
        with run.stage("write back"):
            write_back(job)
    return EmbedReport(False, run.source_version or 0, dict(run.counts))


def open_source(
    lake: Lake, source: SourceSettings, embed: EmbedSettings
) -> tuple[Source, TableState]:
    """The source checked for embedding, at its newest version, and its state."""
    state = TableState.read(lake.spark, source_table(source))
    most = embed.max_image_bytes
    opened = Source.open(lake, source, max_image_bytes=most, written=embed, version=state.version)
    return opened, state


def _require_whole(source: Source, *, replaces: bool) -> None:
    """Raise LakeError where a part of a table is to take another table's place."""
    if replaces and not source.selection.is_whole:
        raise LakeError(
            f"embed.replace_source=true lets {source.table} take another table's place, and ids that both have would keep "
            "the other's vectors where embed.where, embed.limit or embed.retry leaves them out: run without these first"
        )


def _identify(run: Run, source: Source, embed: EmbedSettings, *, state: TableState) -> Proof:
    """Record in the run what it reads; what earlier runs prove of it."""
    lake, model = run.lake, run.model
    model_id = model.spec.model_id if model else ""
    standing = read_standing(lake, source, embed, model_id=model_id, state=state)
    run.source_table = source.table
    run.source_key = standing.key
    _record_version(run, state, state.version)
    run.vectors_version = standing.vectors.version
    return standing.proof


def _record_version(run: Run, state: TableState, version: int) -> None:
    run.source_version, run.source_commit = version, state.time(version)


def _bring_up_to_date(job: Embedding, *, rescan: bool, replaces: bool) -> None:
    """Look at a window of the source, and account for all of it; where the accounts are open, compare every row."""
    lake, run = job.lake, job.run
    # Read again under the claim: another run may have ended between.
    source, state = open_source(lake, job.source.settings, job.settings)
    job = replace(job, source=source)
    proof = _identify(run, source, job.settings, state=state)
    key = run.source_key or ""
    window, rows = choose_window(job, proof, key=key, state=state, rescan=rescan)
    for last in (False, True):
        stream = WindowStream(job, window, state=state)
        ids, chosen, reached = _embed_window(job, stream, state=state, rows=rows)
        with run.stage("account"):
            asked = replace(job, selected=chosen.ids)
            accounts = compare_ids(asked, ids, left=chosen.left(job))
        if window.start is None or not accounts.missing or last:
            break
        log.warning(
            "%d ids of %s have no vector row after its changes: every row is compared (%s, …)",
            accounts.missing,
            source.table,
            accounts.examples(),
        )
        window, rows = replace(window, start=None), None
    stream.remove()
    _close(job, ids, accounts, replaces=replaces)
    run.vectors_version = lake.version("vectors")
    if reached != state.version:
        state = TableState.read(lake.spark, source.table)
    _record_version(run, state, reached)


def _embed_window(
    job: Embedding, stream: WindowStream, *, state: TableState, rows: int | None
) -> tuple[SourceIds, ChosenIds, int]:
    """Give a window's rows to the model; the ids of the source at the version reached, those chosen, and that version."""
    run, source = job.run, job.source
    lost = LostContents(job)
    with run.stage("count"):
        ids = count_source(job, version=state.version)
    with run.stage("choose"):
        chosen = choose_ids(job, ids, version=state.version)
    total = (ids.rows if chosen.rows is None else chosen.rows) if rows is None else rows
    progress = RowProgress(f"embed {source.table.rsplit('/', 1)[-1]}", total=total)
    superseded = superseded_ids(job, stream.window, version=state.version)
    job = replace(
        job,
        progress=progress,
        selected=chosen.ids,
        superseded=superseded,
        rejected=Counter(),
    )
    run.counts.update({"embedded": 0, "copied": 0, "rejected": 0})
    if chosen.rows == 0:
        progress.close()
        _report_ids(job, ids)
        return ids, chosen, state.version
    try:
        reached = stream.run(functools.partial(_one_batch, job, stream, ids, lost, progress))
        came = None
        if reached > state.version:
            ids = _follow(job, stream, state=state, reached=reached)
            chosen, came = choose_again(job, ids, chosen, version=reached)
            job = replace(job, selected=chosen.ids)
        snapshot = source.rows(source.read(job.lake.spark, version=reached))
        unsettled = _find_unsettled_ids(job, stream, ids, reached=reached, came=came)
        if unsettled is not None:
            winners = snapshot.join(unsettled, "id")
            looked = embed_changes(job, winners, name="unsettled", lost=lost)
            _count(run.counts, looked, progress)
    finally:
        progress.close()
    _report_ids(job, ids)
    return ids, chosen, reached


def _one_batch(
    job: Embedding,
    stream: WindowStream,
    ids: SourceIds,
    lost: LostContents,
    progress: RowProgress,
    frame: DataFrame,
    batch_id: int,
) -> None:
    rows = job.source.rows(frame).where("id IS NOT NULL")
    if "_change_type" in rows.columns:
        if stream.window.start is not None:  # of a whole table's window see _unsettled_ids
            _leave_removals(rows, f"{stream.removals}/{batch_id}")
        rows = rows.where("_change_type IN ('insert', 'update_postimage')")
    if ids.repeated:
        rows = rows.join(ids.repeats(), "id", "left_anti")
    looked = embed_changes(job, rows, name=f"batch-{batch_id}", lost=lost)
    _count(job.run.counts, looked, progress)


def _leave_removals(rows: DataFrame, folder: str) -> None:
    """Write the ids from which a commit has taken more rows than it gave: who has one still, had two meanwhile."""
    taken = F.col("_change_type").isin("delete", "update_preimage")
    balance = F.sum(F.when(taken, -1).otherwise(1))
    by_commit = rows.groupBy("id", "_commit_version").agg(balance.alias("balance"))
    left = Observation()
    removed = by_commit.where("balance < 0").select("id").distinct()
    removed = removed.observe(left, F.count(F.lit(1)).alias("ids"))
    removed.write.mode("overwrite").parquet(folder)
    if not left.get["ids"]:
        storage.remove_folder(folder)


def _find_unsettled_ids(
    job: Embedding,
    stream: WindowStream,
    ids: SourceIds,
    *,
    reached: int,
    came: DataFrame | None,
) -> DataFrame | None:
    """Ids whose one row a stream cannot tell: those of several rows, and those of which one of several may be removed.

    Of a whole table that changed while it was read, these are all that changed, and `came` (id): those that are chosen by
    the version reached alone.
    """
    spark = job.lake.spark
    parts = [ids.repeats()] if ids.repeated else []
    if came is not None:
        parts.append(came)
    folders = [f"{stream.removals}/{name}" for name in storage.names(stream.removals)]
    if folders:
        parts.append(spark.read.parquet(*folders))
    if stream.window.start is None and stream.window.has_cdf and reached > stream.begun:
        changes = job.source.changes(spark, start=stream.begun + 1, end=reached)
        parts.append(changes.select(job.source.id_column().alias("id")))
    if not parts:
        return None
    unsettled = functools.reduce(lambda one, other: one.union(other), parts).distinct()
    folder = f"{job.staging}/unsettled-ids"
    unsettled.join(ids.counted, "id").select("id").write.mode("overwrite").parquet(folder)
    staged = spark.read.parquet(folder)
    return staged if staged.head(1) else None


def _follow(job: Embedding, stream: WindowStream, *, state: TableState, reached: int) -> SourceIds:
    """The ids of a version that the source got while the stream began. Raises LakeError where rows were passed over."""
    now = TableState.read(job.lake.spark, job.source.table)
    passed = not stream.window.has_cdf and not now.only_added(since=state.version)
    if now.table_id != state.table_id or passed:
        stream.remove()
        raise LakeError(
            f"{job.source.table} was changed while this run read it (version {state.version} to {reached}), and it has no "
            "change feed that would tell which rows. What was committed stays; run again to compare every row"
        )
    return count_source(job, version=reached)


def _report_ids(job: Embedding, ids: SourceIds) -> None:
    counts, table = job.run.counts, job.source.table
    counts["source_rows"] = ids.rows
    if ids.without_id:
        counts["without_id"] = ids.without_id
        log.warning("%d rows of %s have no id and were left out", ids.without_id, table)
    if ids.repeated:
        counts["duplicates"] = ids.repeated
        shown = ", ".join(str(row.id) for row in ids.repeats().orderBy("id").head(5))
        log.warning(
            "%d rows of %s repeat an id of another row (%s, …): one row of each id is embedded",
            ids.repeated,
            table,
            shown,
        )


def _close(job: Embedding, ids: SourceIds, accounts: Accounts, *, replaces: bool) -> None:
    """Check the guards, delete the vector rows whose ids are gone, and require that all rows are accounted for."""
    counts, table = job.run.counts, job.source.table
    left_out = {"left": accounts.left, "outside": accounts.outside}
    counts.update({name: count for name, count in left_out.items() if count})
    if job.source.selection.retry:
        # All its rows were rejected before, and it looks for none that are gone.
        accounts = replace(accounts, gone=0)
    else:
        rows = accounts.ok + accounts.all_rejected
        if rows:
            job.run.metrics["coverage"] = accounts.ok / rows
        require_few_rejected(job, rejected=accounts.rejected, rows=rows, said=f"of {table}")
        if not replaces:
            require_few_gone(job, accounts)
    require_closed(job, ids, accounts)
    if accounts.gone:
        with job.run.stage("delete"):
            gone = accounts.open_ids.where("vector_id IS NOT NULL").select("vector_id")
            remove_gone(job, gone, rows=accounts.gone)
    counts["deleted"] = accounts.gone


def _count(counts: Counter[str], looked: Looked, progress: RowProgress) -> None:
    counts["embedded"] += looked.embedded
    counts["copied"] += looked.copied
    counts["rejected"] += looked.rejected
    progress.add(looked.looked_at, rejected=looked.rejected)
