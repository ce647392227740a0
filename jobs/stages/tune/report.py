"""What a tuning came to, in words: the choice and how it did on queries it had not seen, or what came nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.stages.recall.summary import PointFigures
from jobs.stages.tune.candidate import CandidateResult, Trial
from udfs.index.points import ANY_KIND, OperatingPoint
from udfs.recall.ladder import Candidate
from udfs.recall.tuning import Goal, Measured, bound_of_kinds, cheapest


@dataclass(frozen=True)
class TuneReport:
    """`best` reached the goal or came nearest; `unseen` are its figures on the other queries; `points` were stored."""

    goal: Goal
    trial: Trial
    tries: tuple[CandidateResult, ...]
    best: CandidateResult
    unseen: tuple[PointFigures, ...]
    points: tuple[OperatingPoint, ...]
    too_large: tuple[Candidate, ...]

    @property
    def met(self) -> bool:
        """Whether an index and a point reach the goal by the lower bound on the tuning queries."""
        return self.best.chosen is not None

    def __str__(self) -> str:
        lines = [self._choice() if self.met else self._nearest()]
        lines += [f"  unseen, {one.group!s:11} {_figures(one)}" for one in self.unseen]
        if self.met:
            below = [
                one for one in self.unseen if one.recall.value < self.goal.recall and _of_kind(one)
            ]
            if below:
                kinds = ", ".join(one.group.kind for one in below)
                lines.append(
                    f"  on these queries, which it had not seen, kind {kinds} is below the target; tune with more queries"
                )
            lines.append(f"  operating points: {_tell_stored(self.points)}")
            lines.append(f"  search at it with search.recall={self.goal.recall:g}")
        return "\n".join(lines)

    def values(self) -> dict[str, object]:
        """The same for programs."""
        spec, nearest = self.best.manifest.spec, self.best.nearest.point
        return {
            "met": self.met,
            "goal": self.goal,
            "index_id": spec.index_id,
            "factory": spec.plan.factory,
            "committed": self.best.committed,
            "bytes_per_vector": self.best.bytes,
            "nprobe": nearest.nprobe,
            "k_factor": nearest.k_factor,
            "unseen": [one.row() | {"k": one.recall.k} for one in self.unseen],
            "points": self.points if self.met else (),
        }

    def _choice(self) -> str:
        return f"target {self.goal} is met by {_shape(self.best)}, {_point(self.best.nearest, self.trial)}"

    def _nearest(self) -> str:
        lines = [
            f"target {self.goal} cannot be met by the indexes tried. Nearest is {_shape(self.best)}, "
            f"{_point(self.best.nearest, self.trial)}"
        ]
        lines += [f"  {_shape(tried)}: {_why(tried, self.trial)}" for tried in self.tries]
        lines += [f"  {candidate}: too large, not built" for candidate in self.too_large]
        if not self.best.committed:
            plan = self.best.manifest.spec.plan
            lines.append(
                f"  nothing was committed; the files of the nearest are kept, and gme-lake build-index with "
                f"index.factory={plan.factory} finishes it"
            )
        return "\n".join(lines)


def _shape(tried: CandidateResult) -> str:
    spec = tried.manifest.spec
    return f"index {spec.index_id}, {spec.plan.factory} ({tried.bytes:,} bytes a vector)"


def _point(measured: Measured, trial: Trial) -> str:
    kinds = trial.kinds[trial.tuning]
    bound = bound_of_kinds(measured.recalls, kinds)
    return (
        f"nprobe {measured.point.nprobe}, k_factor {measured.point.k_factor}: recall@{trial.goal.k} "
        f"{measured.recalls.mean():.4f}, lower bound {bound:.4f} in {measured.cost:.3f} ms "
        f"({len(kinds)} queries chose it)"
    )


def _why(tried: CandidateResult, trial: Trial) -> str:
    if tried.short is None:
        return "reaches it"
    if tried.short == "recall":
        return f"too few found at any speed; {_point(tried.nearest, trial)}"
    seen = [m.take(trial.tuning) for m in tried.measured]
    slow = cheapest(seen, trial.kinds[trial.tuning], recall=trial.goal.recall)
    if slow is None:
        return _point(tried.nearest, trial)
    return f"too slow; reaches it with {_point(slow, trial)}"


def _figures(one: PointFigures) -> str:
    return (
        f"{one.recall}; 1@{one.recall.k} {one.first.value:.4f}; "
        f"{one.ms_median:.3f} ms, p95 {one.ms_p95:.3f}"
    )


def _of_kind(one: PointFigures) -> bool:
    return one.group.segment is None and one.group.kind != ANY_KIND


def _tell_stored(points: Sequence[OperatingPoint]) -> str:
    mine = [p for p in points if p.kind == ANY_KIND]
    return "; ".join(
        f"{p.target:g} by nprobe {p.nprobe}, k_factor {p.k_factor} ({p.ms:.3f} ms)" for p in mine
    )
