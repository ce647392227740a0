"""Releases: which model, version of `vectors` and index analysts and searches see. Append-only; the newest is current."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.driver.lake import Lake, now
from udfs.errors import LakeError

if TYPE_CHECKING:
    from jobs.driver.runs import Run


@dataclass(frozen=True)
class Release:
    """One row of `releases`."""

    release_id: int
    model_id: str
    vectors_version: int
    index_id: str | None
    note: str | None = None


def current_release(lake: Lake) -> Release | None:
    """The newest release, or None before the first promote."""
    columns = ["release_id", "model_id", "vectors_version", "index_id", "note"]
    rows = lake.read("releases").orderBy("release_id", ascending=False).select(columns).head(1)
    return Release(*rows[0]) if rows else None


def promote(lake: Lake, run: Run, *, index_id: str, note: str | None = None) -> Release:
    """Make an index, and with it its model and version of `vectors`, what everybody sees.

    Raises LakeError where the index is not committed in `indexes`.
    """
    rows = lake.read("indexes").where(f"index_id = '{index_id}'").head(1)
    if not rows:
        raise LakeError(
            f"index {index_id} is not in {lake.name('indexes')}; build one with gme-lake build-index"
        )
    latest = current_release(lake)
    release = Release(
        release_id=(latest.release_id if latest else 0) + 1,
        model_id=rows[0].model_id,
        vectors_version=rows[0].vectors_version,
        index_id=index_id,
        note=note,
    )
    values = {**vars(release), "released_at": now(), "by_run": run.run_id}
    lake.append("releases", [values])
    return release
