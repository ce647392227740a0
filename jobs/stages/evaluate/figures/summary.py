"""From scores of tasks to the table that UMRB prints: by task, modality pair, class (single, cross, fused), overall."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from jobs.stages.evaluate.data.tasks import EvaluationTask, Kind
from jobs.stages.evaluate.figures.measures import QueryScores
from udfs.bootstrap import Floats, Score, bounds, interval, resample_means

Level = Literal["task", "dataset", "pair", "class", "overall"]
KINDS: tuple[Kind, ...] = ("single", "cross", "fused")
MIXED = "mixed"  # metric of an average over tasks whose main metrics differ


@dataclass(frozen=True, eq=False)
class TaskScore:
    """What one task's ranking scored. Documents and queries that could not be embedded are counted in both figures."""

    name: str
    dataset: str  # what averages count once; mostly the task itself
    pair: str
    kind: Kind
    metric: str  # the main one, which averages take
    split: str
    scores: QueryScores
    documents: int
    rejected_documents: int = 0
    rejected_queries: int = 0

    @classmethod
    def of(
        cls, task: EvaluationTask, scores: QueryScores, *, documents: int, rejected: tuple[int, int]
    ) -> TaskScore:
        """Scores of a task over so many documents; `rejected`: how many documents and queries had no vector."""
        names = (task.name, task.counted_as, task.pair, task.kind, task.metric, task.split)
        return cls(*names, scores, documents, *rejected)

    @property
    def values(self) -> Floats:
        """The main metric, query by query: float64 (n,)."""
        return self.scores.values[self.metric]

    @property
    def seed(self) -> tuple[int, int]:
        """Seed of the task's resampling: the same in every table, another one for every task."""
        return (0, zlib.crc32(self.name.encode()))

    def score(self, metric: str) -> Score:
        """Mean of a metric with its interval."""
        return interval(self.scores.values[metric], seed=self.seed)


@dataclass(frozen=True)
class SummaryRow:
    """One line of the table: main metric of a task, or the mean over `datasets` datasets with `score.queries` in all."""

    level: Level
    name: str
    pair: str | None
    kind: Kind | None
    metric: str
    datasets: int
    score: Score


class TableLine(NamedTuple):
    """One line of a table, as weights of its tasks; they add to 1 and each dataset has the same."""

    level: Level
    name: str
    pair: str | None
    kind: Kind | None
    tasks: list[TaskScore]
    weights: list[float]

    @property
    def metric(self) -> str:
        metrics = {task.metric for task in self.tasks}
        return metrics.pop() if len(metrics) == 1 else MIXED

    @property
    def datasets(self) -> int:
        return len({_dataset(task) for task in self.tasks})

    def mean(self, of_tasks: Mapping[str, float]) -> float:
        """Weighted mean of figures given by name of task."""
        return sum(
            weight * of_tasks[task.name]
            for task, weight in zip(self.tasks, self.weights, strict=True)
        )

    def bounds(self, resampled: Mapping[str, Floats]) -> tuple[float, float]:
        """95 % interval of the weighted mean, from each task's resampled means."""
        rows = np.stack([resampled[task.name] for task in self.tasks])
        return bounds(np.asarray(self.weights) @ rows)


def summarise(tasks: Sequence[TaskScore]) -> list[SummaryRow]:
    """The table's lines: overall, then each class with its pairs, each pair with its datasets and tasks.

    As UMRB counts (GME, arXiv 2412.16855): a dataset's figure is its main metric, averages are over datasets, so a
    pair with sixteen datasets weighs sixteen times one with one in its class and overall. A dataset has a line of
    its own where it consists of several tasks. Intervals of averages resample the queries within each task,
    independently: where tasks share queries they are a little too narrow.
    """
    means = {task.name: float(task.values.mean()) for task in tasks}
    resampled = {task.name: resample_means(task.values, seed=task.seed) for task in tasks}
    rows = []
    for part in parts(tasks):
        low, high = part.bounds(resampled)
        queries = sum(len(task.values) for task in part.tasks)
        score = Score(part.mean(means), low, high, queries)
        rows.append(SummaryRow(*part[:4], part.metric, part.datasets, score))
    return rows


def parts(tasks: Sequence[TaskScore]) -> list[TableLine]:
    """Lines of a table over tasks, in its order. ValueError where there is no task, or two have one name."""
    twice = [name for name, count in Counter(task.name for task in tasks).items() if count > 1]
    if twice or not tasks:
        raise ValueError(f"a table needs tasks of different names; given twice: {twice}")
    lines = [_part("overall", "all", tasks)]
    for kind in KINDS:
        of_kind = [task for task in tasks if task.kind == kind]
        lines += [_part("class", kind, of_kind)] if of_kind else []
        for pair in dict.fromkeys(task.pair for task in of_kind):
            of_pair = [task for task in of_kind if task.pair == pair]
            lines.append(_part("pair", pair, of_pair))
            for dataset in dict.fromkeys(task.dataset for task in of_pair):
                lines += _of_dataset([task for task in of_pair if task.dataset == dataset])
    return lines


def _of_dataset(tasks: Sequence[TaskScore]) -> list[TableLine]:
    whole = [_part("dataset", tasks[0].dataset, tasks)] if len(tasks) > 1 else []
    return whole + [_part("task", task.name, [task]) for task in tasks]


def _part(level: Level, name: str, tasks: Sequence[TaskScore]) -> TableLine:
    sizes = Counter(map(_dataset, tasks))
    weights = [1 / (len(sizes) * sizes[_dataset(task)]) for task in tasks]
    kind = tasks[0].kind if level != "overall" else None
    pair = tasks[0].pair if level not in ("overall", "class") else None
    return TableLine(level, name, pair, kind, list(tasks), weights)


def _dataset(task: TaskScore) -> tuple[str, str]:
    """A dataset counts once in each pair that it stands in: UMRB's WebQA is one of t2t and one of t2it."""
    return (task.pair, task.dataset)
