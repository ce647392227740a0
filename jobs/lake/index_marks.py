"""Marks of indexes: held by a run that is about to name them, unused, being removed; one row an index decides all races.

What may happen to an index at the same moment, and why no table is left naming files that are gone:

* A run that will name an index in `releases` or as a base in `indexes` holds it first, then looks whether all files are
  there, then appends its row. Its hold ends with the run, so after that row.
* vacuum-indexes marks an index unused; when the mark is old enough it claims the index (`removing`); then it looks
  again whether any table names it, and only then deletes.
* Holding and claiming change the same row of the same table, so that Delta orders them. Claimed first: the hold is
  refused, nothing is appended. Held first: the claim does not match, as the mark is no longer `unused`. Held and the
  run over before the claim: its row was there before the claim, and the look after the claim finds it.
* A claim is never taken back but by that look, and the mark goes last of all. So what a killed vacuum left is known by
  its mark, whatever of rows and files is gone, and the next one deletes the rest.

A hold whose run neither ends nor goes on ends after HOLD_HOURS; from holding to appending takes a run seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

from jobs.lake.claims import require_no_purge
from jobs.lake.conflicts import again_on_conflict
from jobs.lake.lake import Lake, now
from jobs.lake.runs import Run
from jobs.lake.sql import literals, string_array, timestamp_literal
from udfs.errors import LakeError

HOLD_HOURS = 24


def read_marks(lake: Lake) -> dict[str, Any]:
    """The rows of `index_marks` by index_id."""
    return {row.index_id: row for row in lake.read("index_marks").collect()}


def require_not_removing(lake: Lake, index_ids: Iterable[str]) -> None:
    """Raise LakeError where vacuum-indexes has begun to remove one of them."""
    marks = read_marks(lake)
    for index_id in index_ids:
        mark = marks.get(index_id)
        if mark is not None and mark.mark == "removing":
            raise LakeError(
                f"index {index_id} is being removed by vacuum-indexes (run {', '.join(mark.run_ids)}, since "
                f"{mark.marked_at}); use another index, or let gme-lake vacuum-indexes come to its end (run it again "
                "where it was killed) and build this one again"
            )


def hold(lake: Lake, run: Run, index_ids: Collection[str]) -> None:
    """Keep vacuum-indexes from indexes that the run is about to name in a table; a mark `unused` is taken away.

    Raises LakeError where one of them is being removed, ActiveRunError beside a purge of ids.
    """
    run.begin()
    require_no_purge(run)
    own = string_array([run.run_id])
    made = _merge(
        run,
        index_ids,
        then="WHEN MATCHED AND t.mark <> 'removing' THEN UPDATE SET mark = 'held', marked_at = current_timestamp(), "
        f"run_ids = array_union(IF(t.mark = 'held', t.run_ids, {string_array([])}), {own}) "
        "WHEN NOT MATCHED THEN INSERT (index_id, mark, marked_at, run_ids) "
        f"VALUES (s.index_id, 'held', current_timestamp(), {own})",
    )
    if int(made.num_affected_rows) < len(set(index_ids)):
        require_not_removing(lake, index_ids)
        listed = ", ".join(sorted(index_ids))
        raise LakeError(f"vacuum-indexes came to its end meanwhile with one of {listed}; run again")


def is_held(mark: Any, *, ended: Collection[str]) -> bool:
    """Whether a mark is a hold that counts, where the runs `ended` are over."""
    return mark.mark == "held" and not left_behind(mark, ended=ended)


def left_behind(mark: Any, *, ended: Collection[str]) -> bool:
    """Whether the runs that made a mark are over, or have had more time than they can need."""
    late = mark.marked_at.timestamp() <= _expiry().timestamp()
    return late or set(mark.run_ids) <= set(ended)


def find_ended_runs(lake: Lake, marks: Iterable[Any]) -> set[str]:
    """Of the runs that hold or remove indexes, those that are over, however they ended."""
    run_ids = {run_id for mark in marks if mark.mark != "unused" for run_id in mark.run_ids}
    if not run_ids:
        return set()
    over = lake.read("run_events").where("ended_at IS NOT NULL OR status <> 'running'")
    rows = over.where(F.col("run_id").isin(sorted(run_ids))).select("run_id").distinct().collect()
    return {row.run_id for row in rows}


def mark_unused(run: Run, index_ids: Collection[str], *, ended: Collection[str]) -> None:
    """Mark indexes unused; those marked before keep the time of that, those held by runs that are not over stay so."""
    own = string_array([run.run_id])
    _merge(
        run,
        index_ids,
        then=f"WHEN MATCHED AND t.mark = 'held' AND (t.marked_at <= {timestamp_literal(_expiry())} "
        f"OR size(array_except(t.run_ids, {string_array(ended)})) = 0) "
        f"THEN UPDATE SET mark = 'unused', marked_at = current_timestamp(), run_ids = {own} "
        "WHEN NOT MATCHED THEN INSERT (index_id, mark, marked_at, run_ids) "
        f"VALUES (s.index_id, 'unused', current_timestamp(), {own})",
    )


def _merge(run: Run, index_ids: Collection[str], *, then: str) -> Row:
    rows = run.lake.spark.sql(f"SELECT explode({string_array(index_ids)}) AS index_id")
    return run.merge("index_marks", rows, on="t.index_id = s.index_id", then=then)


def claim(lake: Lake, run: Run, index_ids: Collection[str], *, unused_since: datetime) -> set[str]:
    """Begin to remove those that are still marked unused and have been since; returns them, and those begun before."""
    run.begin()
    _claim(lake, run.run_id, index_ids, unused_since=unused_since)
    marks = read_marks(lake)
    return {i for i in index_ids if i in marks and marks[i].mark == "removing"}


@again_on_conflict
def _claim(lake: Lake, run_id: str, index_ids: Collection[str], *, unused_since: datetime) -> None:
    lake.spark.sql(
        f"UPDATE {lake.name('index_marks')} "
        f"SET mark = 'removing', marked_at = current_timestamp(), run_ids = {string_array([run_id])} "
        f"WHERE index_id IN ({literals(index_ids)}) AND mark = 'unused' "
        f"AND marked_at <= {timestamp_literal(unused_since)}"
    )


@again_on_conflict
def forget(lake: Lake, index_ids: Collection[str], *, marks: Collection[str]) -> None:
    """Delete the rows of indexes whose mark is one of `marks`."""
    lake.spark.sql(
        f"DELETE FROM {lake.name('index_marks')} "
        f"WHERE index_id IN ({literals(index_ids)}) AND mark IN ({literals(marks)})"
    )


def _expiry() -> datetime:
    return now() - timedelta(hours=HOLD_HOURS)
