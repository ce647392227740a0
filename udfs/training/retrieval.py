"""Retrieval figures of an embedder: hit@1, hit@10, nDCG@10 with bootstrap intervals, by exact search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from udfs.gme.prepare import Row

Vectors = npt.NDArray[np.float32]
Encode = Callable[[list[Row]], Vectors]
_DEPTH = 10
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class RetrievalTask:
    """Queries and the ids of what they should find; a corpus row with a query's answer id is right for it.

    `groups` (optional) names a part of the task for each query, such as what a change text changes.
    """

    name: str
    queries: list[Row]
    answers: list[str]
    groups: list[str] | None = None


@dataclass(frozen=True, eq=False)
class Corpus:
    """The rows that all tasks search, and what each shows."""

    rows: list[Row]
    ids: list[str]


@dataclass(frozen=True)
class Score:
    """A mean over queries with its 95 % percentile bootstrap interval over them."""

    mean: float
    low: float
    high: float
    queries: int


def evaluate(encode: Encode, corpus: Corpus, tasks: list[RetrievalTask]) -> dict[str, Score]:
    """Scores named `task/metric` and `task/group/metric`. `encode`: rows to L2-normalised float32 (n, d)."""
    found = encode(corpus.rows)
    scores: dict[str, Score] = {}
    for task in tasks:
        per_query = _per_query(encode(task.queries), found, task.answers, corpus.ids)
        groups = np.array(task.groups if task.groups else [""] * len(task.queries))
        for metric, values in per_query.items():
            scores[f"{task.name}/{metric}"] = _score(values)
            for group in sorted(set(groups) - {""}):
                scores[f"{task.name}/{group}/{metric}"] = _score(values[groups == group])
    return scores


def _per_query(
    queries: Vectors, corpus: Vectors, answers: list[str], ids: list[str]
) -> dict[str, npt.NDArray[np.float64]]:
    depth = min(_DEPTH, len(ids))
    order = np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :depth]
    right = np.array(ids)[order] == np.array(answers)[:, None]
    total = np.array([ids.count(answer) for answer in answers])
    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    ideal = np.array([discount[: min(count, depth)].sum() for count in total])
    return {
        "hit@1": right[:, 0].astype(np.float64),
        "hit@10": right.any(axis=1).astype(np.float64),
        "ndcg@10": (right * discount).sum(axis=1) / ideal,
    }


def _score(values: npt.NDArray[np.float64]) -> Score:
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Score(float(values.mean()), float(low), float(high), len(values))
