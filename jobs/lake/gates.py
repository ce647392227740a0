"""Decisions of the gate: what was measured of a model or an index before it was released, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

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
    return _newest(rows.where(F.col("index_id").isNull() | (F.col("index_id") == index_id)))


def last_decision(lake: Lake) -> Decision | None:
    """The last decision in the lake; None where there was none."""
    return _newest(lake.read("gate_decisions"))


def _newest(rows: DataFrame) -> Decision | None:
    row = rows.orderBy("decided_at", ascending=False).first()
    if row is None:
        return None
    checks = tuple(GateCheck(**check) for check in json.loads(row.checks))
    return Decision(row.model_id, row.index_id, checks, row.forced, row.note)
