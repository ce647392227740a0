"""tune_index from start to end: queries and exact results once, candidates until one is good, its points kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from jobs.lake.indexes import find_index
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.settings.index import IndexSettings
from jobs.settings.settings import Settings
from jobs.stages.index.commit import commit_index, replace_manifest
from jobs.stages.index.plan import PlannedIndex, plan_at, plan_for
from jobs.stages.index.vacuum import remove_within
from jobs.stages.index.vectors import count_vectors
from jobs.stages.recall.exact import exact_results
from jobs.stages.recall.queries import AskedQueries, write_queries
from jobs.stages.recall.record import append_recalls, metrics_of
from jobs.stages.recall.summary import PointFigures, figures, groups_of
from jobs.stages.tune.candidate import CandidateResult, Trial, try_candidate
from jobs.stages.tune.report import TuneReport
from udfs.errors import LakeError, SettingsError
from udfs.index.plan import opq_pq_factory
from udfs.index.points import ANY_KIND, OperatingPoint
from udfs.recall.ladder import Candidate, affordable, bytes_of, ladder
from udfs.recall.recall import recall_of
from udfs.recall.tuning import Goal, Mask, bound_of_kinds, choices, queries_needed, tuning_half


def tune_index(lake: Lake, run: Run, *, model: ResolvedModel, settings: Settings) -> TuneReport:
    """Find, build and commit the first index of the ladder that reaches the target of section `tune`.

    Its operating points are kept with it. Where none reaches the target nothing is committed, and the report says
    what came nearest. `index.factory` or `index.nlist`, if set, leave one candidate. Raises SettingsError where no
    index fits tune.max_bytes, LakeError for too few queries.
    """
    tune, index = settings.tune, settings.index
    goal = Goal(tune.recall, tune.k, tune.max_ms, tune.max_bytes)
    version = lake.version("vectors")
    rows = count_vectors(lake, model.spec.model_id, version=version)
    every = _candidates(index, rows=rows, dim=model.spec.dim)
    fit = affordable(every, goal.max_bytes)
    too_large = tuple(c for c in every if goal.max_bytes is not None and c.bytes > goal.max_bytes)
    if not fit:
        raise SettingsError(
            f"no index fits tune.max_bytes={goal.max_bytes}: "
            f"{min(too_large, key=lambda c: c.bytes)} is the smallest; allow as many, or set index.factory"
        )
    plans = {c: _plan(lake, index, c, model=model, version=version, rows=rows) for c in fit}
    run.model = model
    run.inputs.append((lake.name("vectors"), version, "vectors"))
    run.begin()
    trial = _trial(run, plans[fit[0]], goal=goal, model=model, settings=settings)
    tries = _climb(lake, run, plans, trial, builds=tune.builds)
    best = _best(tries, trial)
    unseen = _unseen(best, trial)
    points = _points(best, trial) if best.chosen else ()
    with run.stage("commit"):
        _keep(lake, run, best, points)
        _remove_others(lake, tries, best)
    append_recalls(run, unseen, spec=best.manifest.spec, asked=trial.asked, part="unseen")
    run.tags["index_id"] = best.manifest.spec.index_id
    run.metrics |= metrics_of(unseen, best.nearest.point)
    run.metrics["target_met"] = float(best.chosen is not None)
    return TuneReport(goal, trial, tuple(tries), best, tuple(unseen), points, too_large)


def _candidates(index: IndexSettings, *, rows: int, dim: int) -> tuple[Candidate, ...]:
    if index.factory is None and index.nlist is None:
        return ladder(rows, dim)
    template = index.factory or opq_pq_factory(dim)
    factory = plan_for(index, rows=rows, dim=dim).factory
    return (Candidate(template, index.nlist, bytes_of(factory, dim)),)


def _plan(
    lake: Lake,
    index: IndexSettings,
    candidate: Candidate,
    *,
    model: ResolvedModel,
    version: int,
    rows: int,
) -> PlannedIndex:
    wanted = {"factory": candidate.factory, "nlist": candidate.nlist}
    settings = index.model_copy(update=wanted)
    return plan_at(lake, settings, model=model, version=version, rows=rows)


def _trial(
    run: Run, planned: PlannedIndex, *, goal: Goal, model: ResolvedModel, settings: Settings
) -> Trial:
    """Queries and exact results, which are the same for every candidate."""
    lake = run.lake
    with run.stage("queries"):
        asked = write_queries(lake, run, spec=planned.spec, model=model, settings=settings)
    half = tuning_half(asked.query_ids, np.array(asked.kinds))
    wanted = queries_needed(goal.recall, least=settings.tune.min_queries)
    _require_queries(asked, half, wanted=wanted)
    run.counts.update({"queries": len(asked.query_ids), "queries_refused": asked.refused})
    key = exact_results(lake, run, spec=planned.spec, asked=asked, k=goal.k)
    return Trial(asked, key, goal, half)


def _require_queries(asked: AskedQueries, half: Mask, *, wanted: int) -> None:
    for kind, count in sorted(Counter(asked.kinds).items()):
        chosen = int(half[np.array(asked.kinds) == kind].sum())
        if chosen < wanted or count - chosen < 1:
            raise LakeError(
                f"kind {kind} has {count} queries that could be embedded; this target is chosen by {wanted} of each "
                f"kind and reported on as many others, so it needs {2 * wanted}. Give more in recall.queries (or "
                "recall.held_out), or lower tune.min_queries or tune.recall"
            )


def _climb(
    lake: Lake, run: Run, plans: dict[Candidate, PlannedIndex], trial: Trial, *, builds: int
) -> list[CandidateResult]:
    """Try candidates in order until one reaches the goal; those that cannot help with what was short are passed over."""
    tries: list[CandidateResult] = []
    for candidate, planned in plans.items():
        short = tries[-1].short if tries else None
        if tries and candidate.helps not in (None, short):
            continue
        tries.append(try_candidate(lake, run, planned=planned, trial=trial))
        built = sum(not one.committed for one in tries)
        if tries[-1].chosen or built >= builds:
            break
    run.counts["indexes_tried"] = len(tries)
    return tries


def _best(tries: list[CandidateResult], trial: Trial) -> CandidateResult:
    """The one that reaches the goal (it is the last), or the one that comes nearest."""
    kinds, limit = trial.kinds[trial.tuning], trial.goal.max_ms

    def nearness(one: CandidateResult) -> tuple[bool, bool, float]:
        quick = limit is None or one.nearest.cost <= limit
        bound = bound_of_kinds(one.nearest.recalls, kinds)
        return one.chosen is not None, quick, bound if quick else -one.nearest.cost

    return max(tries, key=nearness)


def _unseen(best: CandidateResult, trial: Trial) -> list[PointFigures]:
    """Figures of the best's point on the queries that the choice has not seen."""
    whole = next(m for m in best.measured if m.point == best.nearest.point)
    groups = {group: mask & ~trial.tuning for group, mask in groups_of(trial.asked).items()}
    return list(
        figures([whole], {g: mask for g, mask in groups.items() if mask.any()}, k=trial.goal.k)
    )


def _points(best: CandidateResult, trial: Trial) -> tuple[OperatingPoint, ...]:
    """For each kind and target the fastest point by the tuning queries, with what the others then measured."""
    seen = [m.take(trial.tuning) for m in best.measured]
    whole = {m.point: m for m in best.measured}
    found = []
    for (kind, target), chosen in choices(seen, trial.kinds[trial.tuning], trial.targets).items():
        others = ~trial.tuning & ((trial.kinds == kind) | (kind == ANY_KIND))
        unseen = whole[chosen.point].take(others)
        recall = recall_of(unseen.recalls, trial.goal.k)
        found.append(
            OperatingPoint(
                kind=kind,
                k=trial.goal.k,
                target=target,
                nprobe=chosen.point.nprobe,
                k_factor=chosen.point.k_factor,
                recall=recall.value,
                low=recall.low,
                ms=unseen.cost,
            )
        )
    return tuple(found)


def _keep(lake: Lake, run: Run, best: CandidateResult, points: tuple[OperatingPoint, ...]) -> None:
    """Commit the chosen index with its points; those of another k that it has already stay."""
    if best.chosen is None:
        return
    k = points[0].k
    others = tuple(point for point in best.manifest.points if point.k != k)
    manifest = replace(best.manifest, points=(*others, *points))
    if best.committed or not commit_index(lake, run, manifest):
        replace_manifest(lake, manifest)


def _remove_others(lake: Lake, tries: list[CandidateResult], best: CandidateResult) -> None:
    """Files of candidates that are no index; the nearest one's stay, for a build to finish."""
    for one in tries:
        spec = one.manifest.spec
        if one is not best and find_index(lake, spec.index_id) is None:
            remove_within(lake, spec.root)
