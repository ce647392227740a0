"""Removal of indexes that nothing needs any more, and of the folders that killed runs left in the lake.

In two steps: an index is marked, and removed by a later run when the mark is older than the retention and it is still
not needed. `jobs.lake.index_marks` says why promote and build-index may run at the same moment. What is deleted of a
claimed index goes in an order in which each state is one that the next vacuum knows: rows of `indexes`, so that nothing
names what follows; rows of `index_shards`; files; last the mark. Rows whose files are gone and files whose rows are gone
are candidates like any other. Measurements in `recalls` stay: they are history, as runs and releases are.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from jobs.lake.index_marks import (
    claim,
    find_ended_runs,
    forget,
    is_held,
    left_behind,
    mark_unused,
    read_marks,
)
from jobs.lake.indexes import base_of, delete_rows, index_folder
from jobs.lake.lake import Lake, now
from jobs.lake.releases import newest_releases, rollback_targets
from jobs.lake.runs import Run
from udfs import storage
from udfs.index.manifest import MANIFEST_NAME

log = logging.getLogger("gme_lake")

NOTHING = timedelta(0)


@dataclass(frozen=True)
class Vacuum:
    """What a run is to do: `indexes` (index_ids) and their `folders` are removed, with those of killed runs, `bytes` in all.

    `left` are removed too: folders and rows of indexes that were never committed, or half removed. `marked` are only
    marked unused, for a run after the retention. `kept` lose the mark they have: they are needed.
    """

    indexes: tuple[str, ...]
    folders: tuple[str, ...]
    bytes: int
    left: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    releases: int = 1
    retain_hours: float = 0

    def __str__(self) -> str:
        head = f"{len(self.indexes)} index(es), {len(self.folders)} folder(s), {self.bytes:,} bytes"
        lines = [head, *self.folders]
        if self.marked:
            marked = ", ".join(self.marked)
            lines.append(f"marked unused, for removal in {self.retain_hours:g} hours: {marked}")
        return "\n  ".join(lines)


def plan_vacuum(lake: Lake, *, releases: int, retain: timedelta) -> Vacuum:
    """Find what nothing needs. Kept are the indexes of the newest `releases` different releases and of as many rollbacks,
    the newest index of each model, what any of those adds to, and what a run is about to name.

    Of folders that are no index, and of intermediate files, those stay that are younger than `retain`: a run may be
    writing them. A folder is as old as the newest file in it; where a store does not tell that, the folder is kept.
    """
    rows = {row.index_id: row for row in lake.read("indexes").collect()}
    needed = _find_needed(lake, rows, releases=releases)
    marks = read_marks(lake)
    ended = find_ended_runs(lake, marks.values())
    oldest = now() - retain
    found: dict[str, list[str]] = {"indexes": [], "left": [], "marked": []}
    sizes: dict[str, int] = {}
    for index_id in sorted(_known(lake, rows, marks) - needed):
        mark, folder = marks.get(index_id), lake.folder("indexes", index_id)
        going = mark is not None and mark.mark == "removing"
        if mark is not None and is_held(mark, ended=ended):
            continue
        if not _is_name(index_id) or not _may_touch(lake, folder):
            log.warning("index %s: %s leads out of the lake and is left alone", index_id, folder)
            continue
        usage = storage.usage(folder) if storage.exists(folder) else storage.Usage(0, 0)
        young = usage.changed is None or usage.changed >= oldest.timestamp()
        if index_id not in rows and not going and young:
            continue
        marked_at = now() if mark is None or mark.mark == "held" else mark.marked_at
        if not going and marked_at.timestamp() > oldest.timestamp() and retain > NOTHING:
            if mark is None or mark.mark == "held":
                found["marked"].append(index_id)
            continue
        found["indexes" if index_id in rows else "left"].append(index_id)
        if storage.exists(folder):
            sizes[folder] = usage.bytes
    for path in _staging_folders(lake):
        usage = storage.usage(path)
        if usage.changed is not None and usage.changed < oldest.timestamp():
            sizes[path] = usage.bytes
    # Marked by mistake: the mark of a run that may still be removing its indexes is left to that run.
    kept = [
        index_id
        for index_id in sorted(needed & set(marks))
        if marks[index_id].mark == "unused"
        or (marks[index_id].mark == "removing" and left_behind(marks[index_id], ended=ended))
    ]
    return Vacuum(
        indexes=tuple(found["indexes"]),
        folders=tuple(sorted(sizes)),
        bytes=sum(sizes.values()),
        left=tuple(found["left"]),
        marked=tuple(found["marked"]),
        kept=tuple(kept),
        releases=releases,
        retain_hours=retain / timedelta(hours=1),
    )


def vacuum(lake: Lake, run: Run, planned: Vacuum) -> Vacuum:
    """Do what `plan_vacuum` found, and say what was done: what a run has begun to use meanwhile stays."""
    due, folders = {*planned.indexes, *planned.left}, set(planned.folders)
    if due or planned.marked:
        ended = find_ended_runs(lake, read_marks(lake).values())
        mark_unused(run, {*due, *planned.marked}, ended=ended)
    if planned.kept:
        forget(lake, planned.kept, marks=("unused", "removing"))
    claimed = _claim(lake, run, due, planned) if due else set()
    folders -= {lake.folder("indexes", index_id) for index_id in due - claimed}
    removed = remove_claimed(lake, claimed, folders)
    run.counts.update(
        {
            "indexes_removed": len(claimed & set(planned.indexes)),
            "indexes_marked": len(planned.marked),
            "folders_removed": len(folders),
            "bytes_removed": removed,
        }
    )
    return replace(
        planned,
        indexes=tuple(i for i in planned.indexes if i in claimed),
        folders=tuple(sorted(folders)),
        bytes=removed,
        left=tuple(i for i in planned.left if i in claimed),
    )


def remove_claimed(lake: Lake, index_ids: Collection[str], folders: Collection[str]) -> int:
    """Delete the rows of claimed indexes, then folders, then the claims; returns the bytes that were in the folders."""
    if index_ids:
        for table in ("indexes", "index_shards"):
            delete_rows(lake, table, index_ids)
    removed = sum(remove_within(lake, folder) for folder in sorted(folders))
    if index_ids:
        forget(lake, index_ids, marks=("removing",))
    return removed


def remove_within(lake: Lake, folder: str) -> int:
    """Remove a folder of the lake; returns the bytes that were in it. What leads out of the lake is left alone."""
    if not _may_touch(lake, folder):
        log.warning("%s leads out of the lake and is left alone", folder)
        return 0
    size = storage.usage(folder).bytes
    storage.remove_folder(folder)
    return size


def _claim(lake: Lake, run: Run, due: Collection[str], planned: Vacuum) -> set[str]:
    """Those of `due` that are this run's to remove: claimed, and after that still named by nothing."""
    claimed = claim(lake, run, due, unused_since=now() - timedelta(hours=planned.retain_hours))
    rows = {row.index_id: row for row in lake.read("indexes").collect()}
    needed = claimed & _find_needed(lake, rows, releases=planned.releases)
    if needed:
        log.info("in use again, and kept: %s", ", ".join(sorted(needed)))
        forget(lake, needed, marks=("removing",))
    return claimed - needed


def _find_needed(lake: Lake, rows: dict[str, Any], *, releases: int) -> set[str]:
    """Committed indexes that searches, rollbacks, promotes and builds need."""
    wanted = {*_find_released(lake, limit=releases), *_newest(lake, rows)}
    bases = {base_of(rows[index_id]) for index_id in wanted if index_id in rows}
    return {index_id for index_id in wanted | bases if index_id in rows}


def _find_released(lake: Lake, *, limit: int) -> set[str]:
    """Indexes of the newest releases that differ, and of those that one rollback after another goes to."""
    releases = newest_releases(lake, limit=None)
    newest = list(dict.fromkeys(release.index_id for release in releases if release.index_id))
    back = [release.index_id for release in rollback_targets(releases) if release.index_id]
    return {*newest[:limit], *back[:limit]}


def _newest(lake: Lake, rows: dict[str, Any]) -> set[str]:
    """What promote takes of each model that has vectors: the index built last, of those that still have a manifest."""
    newest: dict[str, str] = {}
    if not rows:
        return set()
    models = lake.read("vectors").select("model_id").distinct().collect()
    embedded = {row.model_id for row in models}
    for row in sorted(rows.values(), key=lambda row: row.built_at, reverse=True):
        if row.model_id in embedded - set(newest) and storage.exists(
            storage.join(index_folder(lake, row), MANIFEST_NAME)
        ):
            newest[row.model_id] = row.index_id
    return set(newest.values())


def _known(lake: Lake, rows: Collection[str], marks: dict[str, Any]) -> set[str]:
    """Everything that is or was to be an index: by row, by file of a shard, by folder, or by the mark of a removal."""
    shards = lake.read("index_shards").select("index_id").distinct().collect()
    going = {index_id for index_id, mark in marks.items() if mark.mark != "held"}
    folders = storage.names(lake.folder("indexes"))
    return {*rows, *(row.index_id for row in shards), *folders, *going}


def _staging_folders(lake: Lake) -> Iterator[str]:
    """Folders of intermediate files, and of streams: one that nobody goes on with is of a model that was given up."""
    for parent in (lake.folder("staging"), lake.folder("streams")):
        for name in storage.names(parent):
            path = storage.join(parent, name)
            if _may_touch(lake, path):
                yield path
            else:
                log.warning("%s leads out of the lake and is left alone", path)


def _may_touch(lake: Lake, path: str) -> bool:
    """Whether a path, if there is anything, lies in the lake: a link in a copied lake leads to the original."""
    local = storage.local_path(path)
    return lake.holds(path) and not (local is not None and local.is_symlink())


def _is_name(index_id: str) -> bool:
    return index_id not in ("", ".", "..") and "/" not in index_id and "\\" not in index_id
