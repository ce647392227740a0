"""Decisions of the gate: what was measured of a model or an index before it was released, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.lake.lake import Lake, now
from jobs.lake.runs import Run


@dataclass(frozen=True)
class GateCheck:
    """One thing that was measured; `limit` is what `value` was held against, `said` the same in words, `remedy` what would
    make it pass.
    """

    name: str
    value: float
    limit: float
    passed: bool
    said: str
    remedy: str = ""  # decisions of older lakes have none


@dataclass(frozen=True)
class Decision:
    """What came of the checks of an index, or of a model before it has one (`index_id` None)."""

    model_id: str
    index_id: str | None
    checks: tuple[GateCheck, ...]
    forced: bool = False
    note: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was refused, in words."""
        return tuple(check.said for check in self.checks if not check.passed)


def record_decision(run: Run, decision: Decision) -> None:
    """Append a decision to `gate_decisions`."""
    row = {
        "run_id": run.run_id,
        "model_id": decision.model_id,
        "index_id": decision.index_id,
        "decided_at": now(),
        "passed": decision.passed,
        "forced": decision.forced,
        "checks": json.dumps([asdict(check) for check in decision.checks]),
        "note": decision.note,
    }
    run.append("gate_decisions", [row])


def newest_decision(lake: Lake, *, model_id: str, index_id: str) -> Decision | None:
    """The last decision on an index, or on its model before it had one; None where there was none."""
    rows = lake.read("gate_decisions").where(F.col("model_id") == model_id)
    rows = rows.where(F.col("index_id").isNull() | (F.col("index_id") == index_id))
    return next((decision for _, decision in _newest(rows, limit=1)), None)


def read_decisions(lake: Lake, *, limit: int) -> list[tuple[datetime, Decision]]:
    """The last `limit` decisions in the lake with their times, UTC, newest first."""
    return _newest(lake.read("gate_decisions"), limit=limit)


def _newest(rows: DataFrame, *, limit: int) -> list[tuple[datetime, Decision]]:
    found = []
    for row in rows.orderBy("decided_at", ascending=False).head(limit):
        checks = tuple(GateCheck(**check) for check in json.loads(row.checks))
        decision = Decision(row.model_id, row.index_id, checks, row.forced, row.note)
        # PySpark hands times over in the time zone of this process.
        found.append((row.decided_at.astimezone(UTC), decision))
    return found
