"""What a refresh came to, beside what it was expected to take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jobs.lake.gates import GateCheck
from jobs.lake.registry import ResolvedModel
from jobs.lake.releases import Release
from jobs.lake.runs import Run
from jobs.stages.refresh.forecast import Forecast
from jobs.stages.refresh.plan import HELD_BACK
from udfs.index.cost import format_bytes, format_seconds

Outcome = Literal["released", "nothing", "refused"]


@dataclass(frozen=True)
class Compared:
    """One figure of the plan, and what it was in the end. Its name is that in `runs`, where `planned.` stands before it."""

    name: str
    planned: float
    took: float

    def __str__(self) -> str:
        took, planned = (self._show(value) for value in (self.took, self.planned))
        off = f", {self.took / self.planned - 1:+.1%}" if self.planned else ""
        return f"{self.name.replace('.', ' ').replace('_', ' ')} {took} (planned {planned}{off})"

    def _show(self, value: float) -> str:
        if self.name.startswith("tasks."):
            return format_seconds(value)
        return format_bytes(int(value)) if self.name.endswith("bytes") else f"{value:,.0f}"


def compare_plan(run: Run) -> tuple[Compared, ...]:
    """What of the plan has been done, beside what was expected of it."""
    found = []
    for made in (run.counts, run.seconds, run.measures()):
        for name, planned in made.items():
            _, sign, taken = name.partition("planned.")
            if sign and taken in made and (planned or made[taken]):
                found.append(Compared(taken, float(planned), float(made[taken])))
    return tuple(found)


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh came to. `held_back`: why the model of the alias was left out, and the release's own was refreshed.

    `counts` are rows over all steps, `seconds` by step; `reasons` say what the gate refused.
    """

    outcome: Outcome
    model: ResolvedModel
    release: Release | None
    forecasts: tuple[Forecast, ...]
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    model_seconds: float = 0.0
    cost: float | None = None
    checks: tuple[GateCheck, ...] = ()
    held_back: str | None = None
    compared: tuple[Compared, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was refused, in words."""
        return tuple(check.said for check in self.checks if not check.passed)

    @property
    def remedies(self) -> tuple[str, ...]:
        """What would make it pass."""
        return tuple(check.remedy for check in self.checks if not check.passed)

    def __str__(self) -> str:
        named = f"{self.model.name} version {self.model.version} ({self.model.spec.model_id})"
        lines = [str(forecast) for forecast in self.forecasts]
        if self.compared:
            lines.append("took " + "; ".join(map(str, self.compared)))
        if self.held_back is not None:
            lines.append(HELD_BACK.format(self.held_back))
        if self.outcome == "refused":
            lines.append(f"{named} is refused; {self.release or 'no release'} stays:")
            for check in self.checks:
                if not check.passed:
                    lines.append(f"  {check.said}")
                    lines += [f"    to pass: {check.remedy}"] if check.remedy else []
            if "indexed" in self.counts:
                lines.append(
                    "gme-lake release promote --force --note WHY releases an index all the same"
                )
            if "left" in self.counts:
                lines.append(f"{self.counts['left']:,} rows left: the next refresh goes on")
        else:
            lines += [f"  {check.said}" for check in self.checks]
            lines.append(f"{self.outcome}: {self.release}")
        return "\n".join(lines)

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "outcome": self.outcome,
            "model_id": self.model.spec.model_id,
            "model_version": self.model.version,
            "release": self.release,
            "forecasts": self.forecasts,
            "compared": self.compared,
            "counts": self.counts,
            "seconds": self.seconds,
            "model_seconds": self.model_seconds,
            "cost": self.cost,
            "checks": self.checks,
            "reasons": self.reasons,
            "remedies": self.remedies,
            "held_back": self.held_back,
        }
