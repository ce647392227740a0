"""What was measured of a lake's releases over time: recall of indexes, coverage of models, what the gate decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from pyspark.sql import functions as F

from jobs.lake.gates import Decision, read_decisions
from jobs.lake.lake import Lake
from jobs.lake.run_events import read_runs
from jobs.reports.chart import Measure
from jobs.reports.status_page import History

MEASURES = 400  # points of a line, the newest
DECISIONS = 20


def read_history(lake: Lake) -> History:
    """Read it from `recalls`, `indexes`, `runs`, `releases` and `gate_decisions`, the newest of each."""
    decisions = read_decisions(lake, limit=MEASURES)
    releases = lake.read("releases").select("released_at", "release_id")
    newest = releases.orderBy("release_id", ascending=False).head(MEASURES)
    return History(
        _recall(lake),
        _coverage(lake, decisions),
        [(row.released_at.astimezone(UTC), row.release_id) for row in reversed(newest)],
        decisions[:DECISIONS],
    )


def _recall(lake: Lake) -> dict[str, list[Measure]]:
    """Of each run and kind the index's own point, or the widest measured: points around it are the tuner's business."""
    indexes = lake.read("indexes").select("index_id", "params")
    measured = lake.read("recalls").where("segment IS NULL").join(indexes, "index_id")
    columns = ("run_id", "kind", "measured_at", "nprobe", "k_factor", "params")
    shares = ("recall", "recall_low", "recall_high")
    rows = measured.select(*columns, *shares).orderBy("measured_at", ascending=False)
    own: dict[tuple[str, str], tuple[tuple[bool, int, int], Measure]] = {}
    for row in rows.head(20 * MEASURES):  # a run measures some ten points
        plan = json.loads(row.params)
        point = (min(plan["nprobe"], max(1, plan["nlist"])), plan["k_factor"])
        rank = ((row.nprobe, row.k_factor) == point, row.nprobe, row.k_factor)
        known = own.get((row.run_id, row.kind))
        if known is None or rank > known[0]:
            at = row.measured_at.astimezone(UTC)
            found = Measure(at, row.recall, row.recall_low, row.recall_high)
            own[row.run_id, row.kind] = (rank, found)
    lines: dict[str, list[Measure]] = {}
    for (_, kind), (_, found) in own.items():
        lines.setdefault(kind, []).append(found)
    return _in_time(lines)


def _coverage(
    lake: Lake, decisions: Sequence[tuple[datetime, Decision]]
) -> dict[str, list[Measure]]:
    """As runs of embed_table found it at their end, and the gate; both count the rows of `vectors`."""
    lines: dict[str, list[Measure]] = {}
    columns = ("job", "model_id", "ended_at", F.col("metrics")["coverage"].alias("coverage"))
    runs = read_runs(lake, "job", "model_id", "ended_at", "metrics").select(*columns)
    runs = runs.where("job = 'embed_table' AND coverage IS NOT NULL AND ended_at IS NOT NULL")
    for row in runs.orderBy("ended_at", ascending=False).head(MEASURES):
        found = Measure(row.ended_at.astimezone(UTC), row.coverage, row.coverage, row.coverage)
        lines.setdefault(row.model_id, []).append(found)
    for at, decision in decisions:
        for check in decision.checks:
            if check.name == "coverage" and not decision.forced:
                found = Measure(at, check.value, check.value, check.value)
                lines.setdefault(decision.model_id, []).append(found)
    return _in_time(lines)


def _in_time(lines: dict[str, list[Measure]]) -> dict[str, list[Measure]]:
    return {
        name: sorted(line, key=lambda one: one.at)[-MEASURES:]
        for name, line in sorted(lines.items())
    }
