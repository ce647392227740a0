"""Releases: which model, version of `vectors` and index analysts and searches see. Append-only; the newest is current."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobs.driver.lake import Lake, now
from jobs.driver.sql import literal
from udfs.errors import LakeError

if TYPE_CHECKING:
    from jobs.driver.runs import Run

_COLUMNS = ("release_id", "model_id", "vectors_version", "index_id", "note")


@dataclass(frozen=True)
class Release:
    """One row of `releases`."""

    release_id: int
    model_id: str
    vectors_version: int
    index_id: str | None
    note: str | None = None

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return (
            f"release {self.release_id}: index {self.index_id}, model {self.model_id}, "
            f"version {self.vectors_version} of vectors{note}"
        )


def current_release(lake: Lake) -> Release | None:
    """The newest release, or None before the first promote."""
    return next(iter(newest_releases(lake, limit=1)), None)


def newest_releases(lake: Lake, *, limit: int) -> list[Release]:
    """The last `limit` releases, newest first."""
    rows = lake.read("releases").orderBy("release_id", ascending=False).select(*_COLUMNS)
    return [Release(*row) for row in rows.head(limit)]


def newest_index(lake: Lake, *, model_id: str) -> str:
    """index_id of the index built last for a model. Raises LakeError where there is none."""
    rows = lake.read("indexes").where(f"model_id = {literal(model_id)}")
    row = rows.orderBy("built_at", ascending=False).select("index_id").first()
    if row is None:
        raise LakeError(
            f"model {model_id} has no index in {lake.name('indexes')}; build one with gme-lake build-index"
        )
    return str(row.index_id)


def promote(lake: Lake, run: Run, *, index_id: str, note: str | None = None) -> Release:
    """Make an index, and with it its model and version of `vectors`, what everybody sees.

    Raises LakeError where the index is not committed in `indexes`.
    """
    index = _committed(lake, index_id)
    if index is None:
        raise LakeError(
            f"index {index_id} is not in {lake.name('indexes')}; build one with gme-lake build-index"
        )
    latest = current_release(lake)
    release = Release(
        release_id=_next_id(latest),
        model_id=index.model_id,
        vectors_version=index.vectors_version,
        index_id=index_id,
        note=note,
    )
    return _append(lake, run, release)


def rollback(lake: Lake, run: Run, *, to: int | None = None) -> Release:
    """Append an earlier release's model, version and index as the newest release.

    Without `to`: the newest release that shows anything else than the current one, so that a second rollback
    takes the first one back. Raises LakeError where there is no such release, or its index is gone.
    """
    latest = current_release(lake)
    if latest is None:
        raise LakeError(f"{lake.name('releases')} is empty: nothing to roll back to")
    target = _earlier(lake, latest, to=to)
    if target.index_id is not None and _committed(lake, target.index_id) is None:
        raise LakeError(
            f"release {target.release_id} has index {target.index_id}, which is no longer in "
            f"{lake.name('indexes')}; roll back to another with --to"
        )
    note = f"rollback from {latest.release_id} to {target.release_id}"
    return _append(lake, run, replace(target, release_id=_next_id(latest), note=note))


def _earlier(lake: Lake, latest: Release, *, to: int | None) -> Release:
    from pyspark.sql import functions as F

    rows = lake.read("releases").select(*_COLUMNS).where(F.col("release_id") < latest.release_id)
    if to is None:
        shown = [latest.model_id, latest.vectors_version, latest.index_id]
        names = ["model_id", "vectors_version", "index_id"]
        same = [F.col(n).eqNullSafe(F.lit(v)) for n, v in zip(names, shown, strict=True)]
        rows = rows.where(~(same[0] & same[1] & same[2]))
    else:
        rows = rows.where(F.col("release_id") == to)
    found = rows.orderBy("release_id", ascending=False).first()
    if found is None:
        wanted = "other than the current one" if to is None else str(to)
        known = [r.release_id for r in newest_releases(lake, limit=10) if r != latest]
        raise LakeError(
            f"there is no earlier release {wanted} to roll back to; before {latest.release_id} there are "
            f"{known or 'none'} (see gme-lake release list)"
        )
    return Release(*found)


def _append(lake: Lake, run: Run, release: Release) -> Release:
    values = {**vars(release), "released_at": now(), "by_run": run.run_id}
    if not lake.insert_new("releases", values, key="release_id"):
        raise LakeError(
            f"another run made release {release.release_id} at the same time; look at gme-lake release list, "
            "then start again if still wanted"
        )
    return release


def _committed(lake: Lake, index_id: str) -> Any:
    return lake.read("indexes").where(f"index_id = {literal(index_id)}").first()


def _next_id(latest: Release | None) -> int:
    return (latest.release_id if latest else 0) + 1
