"""One candidate of tune_index: built where it is not there yet, priced, and measured at the points worth it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.lake.indexes import find_index, read_manifest
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.stages.index.job import build_whole
from jobs.stages.index.plan import PlannedIndex
from jobs.stages.index.vectors import indexed_vectors
from jobs.stages.recall.queries import AskedQueries
from jobs.stages.recall.timed_search import Measurable, measure, price
from udfs.index.manifest import Manifest
from udfs.recall.ladder import Short, bytes_of
from udfs.recall.truth import TruthKey
from udfs.recall.tuning import STEPS, Goal, Mask, Measured, cheapest, grid, nearest, shortlist
from udfs.specs import IndexPlan

log = logging.getLogger("gme_lake")


@dataclass(frozen=True)
class Trial:
    """The queries of a tuning: which of them the choice may look at (bool (q,)), the others report on it."""

    asked: AskedQueries
    key: TruthKey
    goal: Goal
    tuning: Mask

    @property
    def kinds(self) -> NDArray[np.str_]:
        """Kind of each query."""
        return np.array(self.asked.kinds)

    @property
    def targets(self) -> tuple[float, ...]:
        """Recalls to have points for."""
        return tuple(sorted({*STEPS, self.goal.recall}))


@dataclass(frozen=True)
class CandidateResult:
    """A candidate and its measured points. `chosen` reaches the goal on the tuning queries; None: `nearest` comes near."""

    manifest: Manifest
    committed: bool
    bytes: int
    measured: tuple[Measured, ...]
    chosen: Measured | None
    nearest: Measured
    short: Short | None


def try_candidate(lake: Lake, run: Run, *, planned: PlannedIndex, trial: Trial) -> CandidateResult:
    """Build (unless committed or left by an earlier tuning), price and measure one candidate; nothing is committed."""
    spec = planned.spec
    row = find_index(lake, spec.index_id)
    if row is None:
        log.info("index %s: %s, %d rows", spec.index_id, spec.plan.factory, planned.rows)
        manifest, _ = build_whole(indexed_vectors(lake, spec), run, spec, rows=planned.rows)
        manifest.write(spec.root)
    else:
        manifest = read_manifest(lake, row)
    committed = None if row is None else str(row.manifest_sha256)
    index = Measurable(manifest.spec.root, committed)
    found = _measure(lake, run, index, trial, plan=manifest.spec.plan)
    kinds, goal = trial.kinds[trial.tuning], trial.goal
    seen = [m.take(trial.tuning) for m in found]
    chosen = cheapest(seen, kinds, recall=goal.recall, max_ms=goal.max_ms)
    reachable = chosen or cheapest(seen, kinds, recall=goal.recall)
    short: Short | None = None if chosen else ("time" if reachable else "recall")
    return CandidateResult(
        manifest=manifest,
        committed=row is not None,
        bytes=bytes_of(spec.plan.factory, spec.dim),
        measured=tuple(found),
        chosen=chosen,
        nearest=chosen or nearest(seen, kinds, max_ms=goal.max_ms),
        short=short,
    )


def _measure(
    lake: Lake, run: Run, index: Measurable, trial: Trial, *, plan: IndexPlan
) -> list[Measured]:
    points = grid(plan.nlist, refined=plan.refine != "none")
    with run.stage("price"):
        priced = price(lake, index, asked=trial.asked, key=trial.key, points=points)
    # Only the queries of the choice decide what is looked at closer.
    seen = {point: recalls[trial.tuning] for point, recalls in priced.items()}
    wanted = shortlist(seen, trial.kinds[trial.tuning], trial.targets)
    with run.stage("measure"):
        return measure(lake, index, asked=trial.asked, key=trial.key, points=wanted)
