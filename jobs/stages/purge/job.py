"""purge_ids from start to end: look, delete, build the release's index without them, remove, look again."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import functions as F

from jobs.lake.claims import PURGE, claim, find_active_runs
from jobs.lake.index_marks import claim as claim_marks
from jobs.lake.index_marks import find_ended_runs, mark_unused, read_marks
from jobs.lake.indexes import base_of, find_index, read_manifest, require_index
from jobs.lake.lake import Lake, now
from jobs.lake.releases import Release, current_release, newest_releases, promote
from jobs.lake.runs import Run
from jobs.lake.source_views import SourceView
from jobs.settings.lake import ReleaseSettings
from jobs.stages.index.commit import commit_index
from jobs.stages.index.full_text import require_texts
from jobs.stages.index.job import build_whole
from jobs.stages.index.plan import index_id_of
from jobs.stages.index.vacuum import remove_claimed, remove_within
from jobs.stages.index.vectors import count_vectors, indexed_vectors
from jobs.stages.purge.places import (
    EVALUATION,
    HOLD_IDS,
    INDEX,
    RECALL,
    TABLE,
    WORK,
    Unreachable,
    find_sources,
    name_unreachable,
    require_gone_from_sources,
)
from jobs.stages.purge.search import Look, learn_traces, look
from jobs.stages.purge.tables import (
    delete_vectors,
    live_files,
    redact,
    redact_errors,
    remove_old_files,
    rewrite_files,
)
from udfs import storage
from udfs.errors import ActiveRunError, LakeError
from udfs.index.files import cache_folder
from udfs.index.plan import factory_traits, require_train_rows
from udfs.purge.scan import Match
from udfs.purge.traces import Traces
from udfs.specs import IndexPlan, IndexSpec

log = logging.getLogger("gme_lake")

_NOTE = "built again without purged rows"
_SHOWN = 20  # findings that are printed
_ANY_AGE = ReleaseSettings(max_missing=1, max_gone=1)


@dataclass(frozen=True)
class PurgePlan:
    """What a purge of `ids` does: `rows` of `vectors` by model_id, what was found in which files, `indexes` that are
    removed.

    `rebuilt` is the index of the current release where it is one of these; `releases` cannot be gone back to afterwards.
    """

    ids: int
    rows: dict[str, int]
    before: Look
    traces: Traces
    indexes: tuple[str, ...]
    rebuilt: str | None
    releases: tuple[int, ...]
    sources: tuple[SourceView, ...]
    unreachable: tuple[Unreachable, ...]

    @property
    def is_empty(self) -> bool:
        """Whether no file of the lake holds one of the ids."""
        return not self.before.ours

    def __str__(self) -> str:
        counted = ", ".join(f"{n:,} of model {model}" for model, n in self.rows.items())
        lines = [
            f"{self.ids:,} id(s): vector rows: {counted or 'none'}; {self.before.describe()}",
            *_index_lines(self.indexes, self.rebuilt, self.releases),
            *(f"  {sighting.found}" for sighting in self.before.ours[:_SHOWN]),
        ]
        return "\n".join([*lines, *_out_of_reach(self.unreachable)])

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "ids": self.ids,
            "rows": self.rows,
            "files_looked_into": self.before.files,
            "found": [sighting.found for sighting in self.before.ours],
            "indexes_removed": self.indexes,
            "index_rebuilt": self.rebuilt,
            "releases_without_index": self.releases,
            "out_of_reach": self.unreachable,
        }


@dataclass(frozen=True)
class PurgeReport:
    """What a purge came to: `planned`, the vector rows `deleted`, the `release` that was made, and what was found
    `after` it.
    """

    planned: PurgePlan
    deleted: int
    release: Release | None
    after: Look
    left: tuple[Match, ...]
    unreachable: tuple[Unreachable, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is left where this lake reaches."""
        return not self.left

    def __str__(self) -> str:
        planned = self.planned
        found = (
            planned.before.describe() if not planned.is_empty else "none of them was found anywhere"
        )
        lines = [f"{planned.ids:,} id(s): before, {found}; {self.deleted:,} vector row(s) deleted"]
        lines += _index_lines(planned.indexes, None, planned.releases)
        if self.release is not None:
            lines.append(f"released: {self.release}")
        files = f"{self.after.files:,} files, {self.after.bytes:,} bytes, were read afterwards"
        if self.ok:
            lines.append(f"{files}: none holds one of the ids or its vector")
        else:
            lines.append(f"{files}, and {len(self.left):,} finding(s) are LEFT:")
            lines += [f"  {one}" for one in self.left[:_SHOWN]]
        return "\n".join([*lines, *_out_of_reach(self.unreachable)])

    def values(self) -> dict[str, object]:
        """The same for programs."""
        planned = self.planned.values()
        return planned | {
            "ok": self.ok,
            "deleted": self.deleted,
            "release": self.release,
            "files_read_afterwards": self.after.files,
            "bytes_read_afterwards": self.after.bytes,
            "left": self.left,
            "out_of_reach": self.unreachable,
        }


def plan_purge(lake: Lake, ids: Collection[str]) -> PurgePlan:
    """Look for the ids in every file, and find what has to go. Writes nothing that stays.

    Raises LakeError where a source table still has them, or where nothing would be left to release.
    """
    with lake.staging(f"purge-{uuid.uuid4().hex}") as staging:
        return _plan(lake, ids, staging=staging)


def purge_ids(lake: Lake, run: Run, ids: Collection[str], *, timeout: float) -> PurgeReport:
    """Remove the ids and their vectors from every file of the lake; then read every file and say what is left.

    Killed at any point and run again it finishes: what is on disk decides, and the files that tell which vectors were an
    id's go last. Raises ActiveRunError beside any other run, LakeError as `plan_purge`.
    """
    with claim(run, name=PURGE, timeout=timeout):
        if active := find_active_runs(lake, but=run.run_id, timeout=timeout):
            raise ActiveRunError(
                f"ids are purged while nothing else works in the lake, and there is {'; '.join(active)}. Nothing was "
                "changed; wait for the end, then run it again"
            )
        with lake.staging(run.run_id) as staging:
            with run.stage("look"):
                planned = _plan(lake, ids, staging=staging)
            log.info("%s", planned.before.describe())
            deleted, release, after = 0, None, planned.before
            if not planned.is_empty:
                deleted, release = _Purge(lake, run, ids, planned).make()
                with run.stage("proof"):
                    after = look(lake, planned.traces, planned.sources, staging=staging)
    meanwhile = find_active_runs(lake, but=run.run_id, timeout=timeout)
    left = [sighting.found for sighting in after.ours]
    left += [Match(lake.quoted("run_events"), one, "began meanwhile") for one in meanwhile]
    run.counts.update(
        {
            "deleted": deleted,
            "files_read": after.files,
            "read_bytes": after.bytes,
            "left": len(left),
        }
    )
    others = [(s.file, s.found) for s in after.sightings if not s.is_ours]
    named = name_unreachable(lake, planned.sources, others)
    unread = [one for one in planned.unreachable if "cannot be read" in one.why]
    return PurgeReport(planned, deleted, release, after, tuple(left), (*unread, *named))


def _plan(lake: Lake, ids: Collection[str], *, staging: str) -> PurgePlan:
    sources = find_sources(lake)
    unread = require_gone_from_sources(lake, sources, sorted(ids))
    of_ids = lake.read("vectors").where(F.col("id").isin(sorted(ids)))
    counted = of_ids.groupBy("model_id").count().orderBy("model_id").collect()
    traces = learn_traces(lake, ids, sources, staging=staging)
    before = look(lake, traces, sources, staging=staging)
    rows = {row.index_id: row for row in lake.read("indexes").collect()}
    hit = before.names(INDEX)
    indexes = hit | {index_id for index_id, row in rows.items() if base_of(row) in hit}
    release = current_release(lake)
    rebuilt = release.index_id if release is not None and release.index_id in indexes else None
    lost = [r.release_id for r in newest_releases(lake, limit=None) if r.index_id in indexes]
    others = [(s.file, s.found) for s in before.sightings if not s.is_ours]
    planned = PurgePlan(
        ids=len(ids),
        rows={row.model_id: int(row["count"]) for row in counted},
        before=before,
        traces=traces,
        indexes=tuple(sorted(indexes)),
        rebuilt=rebuilt,
        releases=tuple(sorted(lost)),
        sources=tuple(sources),
        unreachable=(*unread, *name_unreachable(lake, sources, others)),
    )
    if rebuilt is not None:
        _require_rows(lake, rows[rebuilt], ids)
    return planned


def _require_rows(lake: Lake, row: Any, ids: Collection[str]) -> None:
    """Raise LakeError, or SettingsError, where too few rows are left for the release's index, or its texts are gone."""
    living = lake.read("vectors").where(
        (F.col("model_id") == row.model_id) & (F.col("status") == "ok")
    )
    rows = living.where(~F.col("id").isin(sorted(ids))).count()
    if not rows:
        raise LakeError(
            f"no vector of the released model {row.model_id} would be left: there is nothing to release without them. "
            f"Remove the lake ({lake.root}) instead"
        )
    plan = _plan_of(lake, row, rows=rows)
    if plan.full_text:
        require_texts(lake, model_id=row.model_id)
    if plan.train_rows:
        require_train_rows(plan.train_rows, factory_traits(plan.factory, row.dim), plan.factory)


def _plan_of(lake: Lake, row: Any, *, rows: int) -> IndexPlan:
    """The shape of an index, built whole from `rows` rows; of one that adds to another the shape of that one."""
    plan = read_manifest(lake, row).spec.plan
    if (base := base_of(row)) is not None:
        whole = read_manifest(lake, require_index(lake, base)).spec.plan
        plan = replace(whole, nprobe=plan.nprobe, k_factor=plan.k_factor)
    return replace(plan, train_rows=min(plan.train_rows, rows))


@dataclass
class _Purge:
    """A purge at work. The files of `vectors` go last: they tell which vectors are an id's."""

    lake: Lake
    run: Run
    ids: Collection[str]
    planned: PurgePlan

    def make(self) -> tuple[int, Release | None]:
        """The vector rows deleted, and the release that was made."""
        lake, run, planned = self.lake, self.run, self.planned
        with run.stage("delete"):
            deleted = delete_vectors(run, self.ids)
            if deleted or self._is_in_live_files():
                redact_errors(run, planned.traces)
                rewrite_files(lake, "vectors")  # before the index: it is of a version that stays
        committed = {row.index_id for row in lake.read("indexes").select("index_id").collect()}
        self._remove_indexes(set(planned.indexes) - committed)
        release = self._release_again() if planned.rebuilt is not None else None
        self._remove_indexes(set(planned.indexes) & committed)
        for part in (WORK, EVALUATION):
            for folder in sorted(planned.before.names(part)):
                remove_within(lake, folder)
        _empty_cache()
        if planned.traces.vector_ids.size or planned.before.names(RECALL):
            remove_within(lake, lake.folder("recall"))  # exact results name rows by vector_id
        with run.stage("tables"):
            for table in sorted(planned.before.names(TABLE) & (HOLD_IDS.keys() - {"vectors"})):
                redact(lake, table, planned.traces)
                rewrite_files(lake, table)
                remove_old_files(lake, table, planned.traces)
            if "vectors" in planned.before.names(TABLE):
                remove_old_files(lake, "vectors", planned.traces)
        return deleted, release

    def _is_in_live_files(self) -> bool:
        """Whether files of the newest version of `vectors` hold something: rows marked deleted, or errors that name
        an id.
        """
        of_vectors = [s.file for s in self.planned.before.ours if s.file.part == TABLE]
        paths = {file.path for file in of_vectors if file.name == "vectors"}
        return bool(paths & live_files(self.lake, "vectors"))

    def _release_again(self) -> Release:
        """Build the release's index from what `vectors` has now, in the same shape, and release it."""
        lake, run = self.lake, self.run
        old = require_index(lake, str(self.planned.rebuilt))
        version = lake.version("vectors")
        rows = count_vectors(lake, old.model_id, version=version)
        plan = _plan_of(lake, old, rows=rows)
        index_id = index_id_of(lake, old.model_id, vectors_version=version, plan=plan)
        spec = IndexSpec(
            index_id, lake.folder("indexes", index_id), old.model_id, old.dim, version, plan
        )
        with run.stage("index"):
            if find_index(lake, index_id) is None:
                points = read_manifest(lake, old).points
                manifest, _ = build_whole(indexed_vectors(lake, spec), run, spec, rows=rows)
                commit_index(lake, run, replace(manifest, points=points))
                if points:
                    log.warning(
                        "the operating points of index %s were taken over, not measured again: gme-lake tune-index does",
                        old.index_id,
                    )
            return promote(lake, run, index_id=index_id, limits=_ANY_AGE, note=_NOTE, force=True)

    def _remove_indexes(self, index_ids: Collection[str]) -> None:
        """Remove indexes at once, by the marks that vacuum-indexes sets. Raises ActiveRunError where a run holds one."""
        if not index_ids:
            return
        lake, run = self.lake, self.run
        mark_unused(run, index_ids, ended=find_ended_runs(lake, read_marks(lake).values()))
        claimed = claim_marks(lake, run, index_ids, unused_since=now())
        release = current_release(lake)
        needed = {release.index_id} if release is not None else set()
        if held := (set(index_ids) - claimed) | (claimed & needed):
            raise ActiveRunError(
                f"index(es) {', '.join(sorted(held))} have rows that are purged, but another run is about to release or add "
                "to them; run it again when that run has ended"
            )
        folders = [lake.folder("indexes", index_id) for index_id in claimed]
        removed = remove_claimed(lake, claimed, folders)
        run.counts["indexes_removed"] += len(claimed)
        run.counts["removed_bytes"] += removed


def _empty_cache() -> None:
    """Remove this machine's copies of index files; those that are needed are fetched again."""
    folder = str(cache_folder())
    for name in storage.names(folder):
        storage.remove_file(storage.join(folder, name))


def _index_lines(
    indexes: Collection[str], rebuilt: str | None, releases: Collection[int]
) -> Iterator[str]:
    if rebuilt is not None:
        yield f"index {rebuilt} of the current release is built again without them, and released"
    if indexes:
        yield f"index(es) with their vectors are removed at once: {', '.join(indexes)}"
    if releases:
        yield f"release(s) that can no longer be rolled back to: {', '.join(map(str, releases))}"


def _out_of_reach(unreachable: Collection[Unreachable]) -> list[str]:
    return ["out of reach:", *(f"  {one}" for one in unreachable)] if unreachable else []
