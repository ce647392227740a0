"""Two evaluations of the same queries: paired differences by task, pair, class and overall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.lake.lake import Lake
from jobs.stages.evaluate.data.tasks import Kind
from jobs.stages.evaluate.figures.measures import check_same_queries
from jobs.stages.evaluate.figures.record import load_scores
from jobs.stages.evaluate.figures.summary import Level, TableLine, TaskScore, parts
from udfs.bootstrap import Difference, Floats, difference, resample_means
from udfs.errors import LakeError


@dataclass(frozen=True)
class ComparedRow:
    """One line of a comparison: means of both, and new minus old. Shares better and worse weigh as the means do."""

    level: Level
    name: str
    pair: str | None
    kind: Kind | None
    metric: str
    datasets: int
    new: float
    old: float
    difference: Difference


def compare(lake: Lake, evaluation_id: str, *, against: str) -> list[ComparedRow]:
    """Compare two recorded evaluations, as `differences` does. Raises LakeError where one is not recorded."""
    return differences(load_scores(lake, evaluation_id), load_scores(lake, against))


def differences(new: Sequence[TaskScore], old: Sequence[TaskScore]) -> list[ComparedRow]:
    """Lines as of `summarise`: each query's new minus old main metric, with 95 % bootstrap intervals over queries.

    Raises LakeError, saying what differs, unless both have the same tasks, metrics, splits and queries.
    """
    before = _match(new, old)
    changes = {task.name: task.values - before[task.name].values for task in new}
    resampled = {task.name: resample_means(changes[task.name], seed=task.seed) for task in new}
    of_tasks = {
        task.name: difference(task.values, before[task.name].values, seed=task.seed) for task in new
    }
    return [_row(part, before, of_tasks, resampled) for part in parts(new)]


def _row(
    part: TableLine,
    before: dict[str, TaskScore],
    of_tasks: dict[str, Difference],
    resampled: dict[str, Floats],
) -> ComparedRow:
    low, high = part.bounds(resampled)
    whole = Difference(
        mean=part.mean({name: of.mean for name, of in of_tasks.items()}),
        low=low,
        high=high,
        better=part.mean({name: of.better for name, of in of_tasks.items()}),
        worse=part.mean({name: of.worse for name, of in of_tasks.items()}),
        queries=sum(of_tasks[task.name].queries for task in part.tasks),
    )
    new = part.mean({task.name: float(task.values.mean()) for task in part.tasks})
    old = part.mean({task.name: float(before[task.name].values.mean()) for task in part.tasks})
    return ComparedRow(*part[:4], part.metric, part.datasets, new, old, whole)


def _match(new: Sequence[TaskScore], old: Sequence[TaskScore]) -> dict[str, TaskScore]:
    before = {task.name: task for task in old}
    names = {task.name for task in new}
    if names != set(before):
        only_new, only_old = sorted(names - set(before)), sorted(set(before) - names)
        raise LakeError(
            f"the evaluations have different tasks: only the new one has {only_new or 'none'}, only the old one "
            f"{only_old or 'none'}; evaluate both on the same tasks (evaluate.only)"
        )
    for task in new:
        mine, its = _terms(task), _terms(before[task.name])
        if mine != its:
            raise LakeError(
                f"task {task.name} is not the same in both, by (metric, split, pair, dataset, documents): {mine} and {its}; "
                "evaluate both with one task file over the same data"
            )
        check_same_queries(task.scores, before[task.name].scores, task=f"task {task.name}")
    return before


def _terms(task: TaskScore) -> tuple[str, str, str, str, int]:
    return (task.metric, task.split, task.pair, task.dataset, task.documents)
