"""Scores of trainings by class of direction: means over queries and seeds, their intervals, paired changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from udfs.bootstrap import RESAMPLES, Floats, Score, bounds
from udfs.training.spec import Direction

Class = Literal["single", "cross", "fused"]
CLASSES: tuple[Class, ...] = get_args(Class)
AVERAGE = "average"
_BLOCK = 1 << 22  # values held at once


def class_of(direction: Direction) -> Class:
    """UMRB's class: fused where a side is image and text, single where both sides are the same, else cross."""
    query, _, target = direction.partition("2")
    if "it" in (query, target):
        return "fused"
    return "single" if query == target else "cross"


def summarise(values: Mapping[str, Floats]) -> dict[str, Score]:
    """Score of each task, of each class (mean of its tasks) and `average` (mean of the classes, as in GME's table).

    `values`: task (`set/direction`) to float64 (seeds, queries). Intervals are of a bootstrap that draws seeds and
    then queries, both with replacement; of one seed they say nothing about other seeds.
    """
    rng = np.random.default_rng(0)
    seeds = len(next(iter(values.values())))
    drawn = rng.integers(0, seeds, (RESAMPLES, seeds))
    means = {task: np.array([of_task.mean()]) for task, of_task in values.items()}
    resampled = {task: _resample(of_task, drawn, rng) for task, of_task in values.items()}
    queries = {task: of_task.shape[1] for task, of_task in values.items()}
    for name in CLASSES:
        tasks = [task for task in values if class_of(task.rpartition("/")[2]) == name]
        _add(name, tasks, means, resampled, queries)
    _add(AVERAGE, [name for name in CLASSES if name in means], means, resampled, queries)
    return {
        name: Score(float(mean[0]), *bounds(resampled[name]), queries[name])
        for name, mean in means.items()
    }


def _add(
    name: str,
    parts: list[str],
    means: dict[str, Floats],
    resampled: dict[str, Floats],
    queries: dict[str, int],
) -> None:
    if parts:
        for of_parts in (means, resampled):
            of_parts[name] = np.mean([of_parts[part] for part in parts], axis=0)
        queries[name] = sum(queries[part] for part in parts)


def _resample(values: Floats, drawn: npt.NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Means (RESAMPLES,) of `values` (seeds, queries), of the `drawn` seeds (RESAMPLES, seeds) and as many queries."""
    count = values.shape[1]
    step = max(1, _BLOCK // values.size)
    parts = []
    for start in range(0, RESAMPLES, step):
        of_seeds = values[drawn[start : start + step]].mean(axis=1)
        picked = rng.integers(0, count, of_seeds.shape)
        parts.append(np.take_along_axis(of_seeds, picked, axis=1).mean(axis=1))
    return np.concatenate(parts)
