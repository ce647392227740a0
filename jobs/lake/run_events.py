"""Runs as their events tell them: the newest event of a run says how it stands."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from jobs.lake.lake import Lake

# In SQL, as view `runs` is made of it too. An end comes after every beat: a run that others took for dead, and marked so,
# may beat once more.
NEWEST_EVENT = "struct(ended_at IS NOT NULL, coalesce(beat_at, started_at))"


def read_runs(lake: Lake, *columns: str) -> DataFrame:
    """One row a run with `columns` of its newest event: view `runs`, which a lake opened for a job's own use has not."""
    events = lake.read("run_events")
    newest = F.max_by(F.struct(*columns), F.expr(NEWEST_EVENT)).alias("run")
    return events.groupBy("run_id").agg(newest).select("run.*")


def collect_runs(lake: Lake, *columns: str, where: Column) -> list[Row]:
    """The same of the few runs of whose events `where` is true, put together here: an aggregation costs more than
    they do.
    """
    events = lake.read("run_events").where(where)
    newest: dict[str, Row] = {}
    for row in events.select("run_id", *columns, F.expr(NEWEST_EVENT).alias("order")).collect():
        other = newest.get(row.run_id)
        if other is None or row.order > other.order:
            newest[row.run_id] = row
    return list(newest.values())
