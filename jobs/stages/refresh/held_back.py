"""A model that was refused or rolled back is not tried again by the next scheduled run, until its alias has moved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pyspark.sql import functions as F

from jobs.lake.lake import Lake
from jobs.lake.releases import Release, rolled_back


def why_held_back(lake: Lake, releases: Sequence[Release], *, model_id: str) -> str | None:
    """Why the model of the alias is not to be released by itself; None: it may be. `releases` are all, newest first.

    It was rolled back, or refused by the gate, and no refresh since has found the alias at another model.
    """
    at, why = max(
        (_rolled_back(releases, model_id), _refused(lake, model_id)),
        key=lambda found: found[0] or datetime.min,
    )
    if at is None or _was_elsewhere(lake, model_id, since=at):
        return None
    return why


def _rolled_back(releases: Sequence[Release], model_id: str) -> tuple[datetime | None, str]:
    last = max((r.release_id for r in releases if r.model_id == model_id), default=None)
    newer = (r for r in reversed(releases) if last is not None and r.release_id > last)
    after = next(newer, None)
    if after is None:
        return None, ""
    went = rolled_back(after.note)
    if went is None or went[0] != last:
        return None, ""
    return after.released_at, f"release {last} of it was rolled back by release {after.release_id}"


def _refused(lake: Lake, model_id: str) -> tuple[datetime | None, str]:
    decisions = lake.read("gate_decisions").where(F.col("model_id") == model_id)
    row = decisions.orderBy("decided_at", ascending=False).first()
    if row is None or row.passed or row.forced:
        return None, ""
    return row.decided_at, f"the gate refused it in run {row.run_id}"


def _was_elsewhere(lake: Lake, model_id: str, *, since: datetime) -> bool:
    runs = lake.read("run_events").where("job = 'refresh_lake' AND model_id IS NOT NULL")
    other = runs.where((F.col("model_id") != model_id) & (F.col("started_at") > F.lit(since)))
    return bool(other.head(1))
