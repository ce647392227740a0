"""Releases: which model, version of `vectors` and index analysts and searches see. Append-only; the newest is current."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pyspark.sql import functions as F

from jobs.lake.gates import newest_decision, record_decision
from jobs.lake.index_marks import hold
from jobs.lake.indexes import (
    find_index,
    index_age,
    read_indexes,
    require_index,
    whole_manifest,
)
from jobs.lake.lake import Lake, now
from jobs.lake.registry import Registry
from jobs.lake.runs import Run
from jobs.settings.lake import ReleaseSettings
from udfs.errors import GateError, IndexDataError, LakeError, RegistryError
from udfs.index.manifest import Manifest

log = logging.getLogger("gme_lake")

_COLUMNS = ("release_id", "model_id", "vectors_version", "index_id", "note", "released_at")
# What `rollback` writes, and nothing else may: which release a row shows again is read from it.
_ROLLBACK_NOTE = re.compile(r"rollback from (\d+) to (\d+)")
_PREFIX = 6  # characters of a model_id that may stand for it


@dataclass(frozen=True)
class Release:
    """One row of `releases`."""

    release_id: int
    model_id: str
    vectors_version: int
    index_id: str | None
    note: str | None = None
    released_at: datetime | None = field(default=None, compare=False)

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return (
            f"release {self.release_id}: index {self.index_id}, model {self.model_id}, "
            f"version {self.vectors_version} of vectors{note}"
        )

    @property
    def shown(self) -> tuple[str, int, str | None]:
        """What analysts and searches see of it."""
        return self.model_id, self.vectors_version, self.index_id


def current_release(lake: Lake) -> Release | None:
    """The newest release, or None before the first promote."""
    return next(iter(newest_releases(lake, limit=1)), None)


def newest_releases(lake: Lake, *, limit: int | None) -> list[Release]:
    """The last `limit` releases (None: all), newest first. Put in order here: Spark's sort costs more than they do."""
    found = [Release(*row) for row in lake.read("releases").select(*_COLUMNS).collect()]
    return sorted(found, key=lambda release: release.release_id, reverse=True)[:limit]


def rollback_targets(releases: Sequence[Release]) -> list[Release]:
    """What one rollback after another goes to, where `releases` are all, newest first; the first shows what is shown now.

    A rollback shows an earlier release again and so stands where that one stood: before it is what was shown before it
    was promoted. A promote begins a new head, before which is what was shown until then. So the second of two rollbacks
    goes two back, not forward again. Releases that show the same are one.
    """
    by_id = {release.release_id: release for release in releases}
    older = sorted(by_id)
    found: list[Release] = []
    at = older[-1] if older else None
    while at is not None:
        origin = _origin(by_id[at], by_id)
        if not found or origin.shown != found[-1].shown:
            found.append(origin)
        at = max((number for number in older if number < origin.release_id), default=None)
    return found


def rolled_back(note: str | None) -> tuple[int, int] | None:
    """The releases from and to which a rollback went, by the note that it wrote; None: the note is none of a rollback."""
    noted = _ROLLBACK_NOTE.fullmatch(note or "")
    return (int(noted[1]), int(noted[2])) if noted else None


def _origin(release: Release, by_id: dict[int, Release]) -> Release:
    """The promoted release that a row shows: itself, or the one that it went back to."""
    while went := rolled_back(release.note):
        earlier = by_id.get(went[1])
        if earlier is None or earlier.release_id >= release.release_id:
            break
        release = earlier
    return release


def newest_index(lake: Lake, *, model_id: str) -> str:
    """index_id of the index built last for a model. Raises LakeError where there is none."""
    rows = read_indexes(lake, model_id=model_id).values()
    row = max(rows, key=lambda row: row.built_at, default=None)
    if row is None:
        raise LakeError(
            f"model {model_id} has no index in {lake.name('indexes')}; build one with gme-lake build-index"
        )
    return str(row.index_id)


def model_named(lake: Lake, registry: Registry, name: str) -> str:
    """model_id of an alias or a version in the registry, or of the beginning of a model_id that has an index.

    Raises RegistryError where that is none, or several.
    """
    wanted: dict[str, int | str | None] = {"alias": name, "version": None}
    if name.isdecimal():
        wanted = {"version": int(name)}
    found, said = set(), ""
    try:
        named = registry.resolve(registry.settings.model.model_copy(update=wanted))
        found.add(named.spec.model_id)
    except RegistryError as error:
        said = str(error)
    rows = lake.read("indexes").select("model_id").distinct().collect()
    known = sorted(row.model_id for row in rows)
    if len(name) >= _PREFIX:
        found |= {model_id for model_id in known if model_id.startswith(name)}
    if len(found) == 1:
        return found.pop()
    told = (
        f"it may be {' or '.join(sorted(found))}"
        if found
        else f"there is none of that name: {said}"
    )
    raise RegistryError(
        f"--model {name}: {told}. Give an alias, a version, or at least {_PREFIX} characters of a model_id; models with "
        f"an index in {lake.name('indexes')} are {', '.join(known) or 'none'}"
    )


def require_model_wanted(latest: Release | None, *, model_id: str) -> None:
    """Raise LakeError where the current release is of another model: a release changes its model only by name."""
    if latest is not None and latest.model_id != model_id:
        raise LakeError(
            f"the current {latest} is not of model {model_id}; promoting another model than the release's changes every "
            f"vector and query that people see, so it has to be named: --model {model_id} (or its alias or version). "
            "For the model of the release choose it by model.alias or model.version"
        )


def promote(
    lake: Lake,
    run: Run,
    *,
    index_id: str,
    limits: ReleaseSettings,
    model_id: str | None = None,
    note: str | None = None,
    force: bool = False,
) -> Release:
    """Make an index, and with it its model and version of `vectors`, what everybody sees.

    `model_id` names the model where it is another than the current release's. The index of the current release is not
    released again: that release is returned. Raises LakeError where the index is not committed, of another model than
    wanted, being removed, or further from `vectors` than `limits` allow; GateError where the gate has refused it, unless
    `force`, which is recorded; IndexDataError where its files are gone or others than were committed.
    """
    if rolled_back(note):
        raise LakeError(
            f"the note {note!r} is what a rollback writes; give this release another note"
        )
    index = require_index(lake, index_id)
    latest = current_release(lake)
    if model_id is None:
        require_model_wanted(latest, model_id=index.model_id)
    elif model_id != index.model_id:
        raise LakeError(
            f"index {index_id} is of model {index.model_id}, not of model {model_id} that was asked for"
        )
    if latest is not None and latest.index_id == index_id:
        whole_manifest(lake, index)
        log.info("index %s is that of release %d already", index_id, latest.release_id)
        return latest
    _require_passed(run, index, note=note, force=force)
    _require_young(lake, index, limits)
    manifest = _hold_index(lake, run, index_id)
    release = Release(
        release_id=_next_id(latest),
        model_id=index.model_id,
        vectors_version=manifest.spec.vectors_version,
        index_id=index_id,
        note=note,
    )
    return _append(run, release)


def rollback(lake: Lake, run: Run, *, to: int | None = None) -> Release:
    """Append an earlier release's model, version and index as the newest release.

    Without `to`: what was shown before the current one was promoted; a second rollback goes one further back. Raises
    LakeError where there is no such release, or its index or all vectors of its model are gone, IndexDataError where the
    index's files are.
    """
    releases = newest_releases(lake, limit=None)
    if not releases:
        raise LakeError(f"{lake.name('releases')} is empty: nothing to roll back to")
    latest = releases[0]
    target = _earlier(releases, to=to)
    if target.index_id is not None:
        if find_index(lake, target.index_id) is None:
            raise LakeError(
                f"release {target.release_id} has index {target.index_id}, which is no longer in "
                f"{lake.name('indexes')}; roll back to another with --to"
            )
        _require_vectors(lake, target)
        try:
            _hold_index(lake, run, target.index_id)
        except IndexDataError as error:
            raise IndexDataError(
                f"cannot roll back to release {target.release_id}: {error}. Or roll back to another with --to"
            ) from error
    note = f"rollback from {latest.release_id} to {target.release_id}"
    return _append(run, replace(target, release_id=_next_id(latest), note=note))


def _require_vectors(lake: Lake, release: Release) -> None:
    """Raise LakeError where refresh-lake has removed the vectors of a release's model: nothing would be found."""
    rows = lake.read("vectors").where(F.col("model_id") == release.model_id)
    if not rows.head(1):
        raise LakeError(
            f"cannot roll back to release {release.release_id}: {lake.name('vectors')} has no vectors of its model "
            f"{release.model_id} any more. Roll back to another with --to, or point the alias to that model and run "
            "gme-lake refresh-lake --again"
        )


def _hold_index(lake: Lake, run: Run, index_id: str) -> Manifest:
    """The manifest of an index whose files are all there, and stay there until the run is over; see `index_marks`."""
    base = whole_manifest(lake, require_index(lake, index_id)).base
    hold(lake, run, [index_id, *([base.index_id] if base else [])])
    return whole_manifest(lake, require_index(lake, index_id))


def _require_passed(run: Run, index: Any, *, note: str | None, force: bool) -> None:
    """Raise GateError where refresh-lake has refused the index, or its model; with `force` that is recorded instead."""
    decision = newest_decision(run.lake, model_id=index.model_id, index_id=index.index_id)
    if decision is None or decision.passed or decision.forced:
        return
    if not force:
        raise GateError(
            f"the gate has refused index {index.index_id}: {'; '.join(decision.reasons)}. Release it all the same with "
            "gme-lake release promote --force --note WHY"
        )
    record_decision(run, replace(decision, index_id=index.index_id, forced=True, note=note))


def _require_young(lake: Lake, index: Any, limits: ReleaseSettings) -> None:
    age = index_age(lake, whole_manifest(lake, index))
    found = []
    for rows, of, what, name in (
        (age.missing, age.live, "rows of its model in vectors are not in it", "max_missing"),
        (age.gone, age.indexed, "rows in it are gone from vectors", "max_gone"),
    ):
        if rows > getattr(limits, name) * of:
            share = f"{rows / of:.0%}, allowed are {getattr(limits, name):.0%}"
            found.append(f"{rows:,} of {of:,} {what} ({share}: release.{name})")
    if found:
        raise LakeError(
            f"index {index.index_id}, built from version {index.vectors_version} of vectors, is too old to be released: "
            f"{'; '.join(found)}. Build one with gme-lake build-index; to release this one all the same, allow it with "
            "those settings"
        )


def _earlier(releases: Sequence[Release], *, to: int | None) -> Release:
    latest = releases[0]
    if to is None:
        found = next(iter(rollback_targets(releases)[1:]), None)
    else:
        found = next((r for r in releases[1:] if r.release_id == to), None)
    if found is None:
        wanted = "other than the current one" if to is None else str(to)
        known = [r.release_id for r in releases[1:11]]
        raise LakeError(
            f"there is no earlier release {wanted} to roll back to; before {latest.release_id} there are "
            f"{known or 'none'} (see gme-lake release list; --to goes to any of them)"
        )
    return found


def _append(run: Run, release: Release) -> Release:
    release = replace(release, released_at=now())
    values = {**vars(release), "by_run": run.run_id}
    if not run.insert_new("releases", values, key="release_id"):
        raise LakeError(
            f"another run made release {release.release_id} at the same time; look at gme-lake release list, "
            "then start again if still wanted"
        )
    return release


def _next_id(latest: Release | None) -> int:
    return (latest.release_id if latest else 0) + 1
