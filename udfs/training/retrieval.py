"""Retrieval figures of an embedder: hit@1, hit@10, nDCG@10 with bootstrap intervals, by exact search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from udfs.bootstrap import Score, interval
from udfs.gme.prepare import Row

Vectors = npt.NDArray[np.float32]
Encode = Callable[[list[Row]], Vectors]
QueryScores = dict[str, dict[str, npt.NDArray[np.float64]]]  # task -> metric -> one score a query
_DEPTH = 10


@dataclass(frozen=True, eq=False)
class RetrievalTask:
    """Queries and the ids of what they should find; the corpus has rows with a query's answer id, which are right for it.

    `groups` (optional) names a part of the task for each query, such as what a change text changes.
    """

    name: str
    queries: list[Row]
    answers: list[str]
    groups: list[str] | None = None


@dataclass(frozen=True, eq=False)
class Corpus:
    """The rows that all tasks search, and what each shows: one thing or several."""

    rows: list[Row]
    ids: list[frozenset[str]]


def query_scores(encode: Encode, corpus: Corpus, tasks: list[RetrievalTask]) -> QueryScores:
    """Every query's score by task and metric. `encode`: rows to L2-normalised float32 (n, d)."""
    found = encode(corpus.rows)
    return {
        task.name: _per_query(encode(task.queries), found, task.answers, corpus.ids)
        for task in tasks
    }


def mean_scores(values: QueryScores, tasks: list[RetrievalTask]) -> dict[str, Score]:
    """Means of the queries' scores, named `task/metric` and `task/group/metric`."""
    scores: dict[str, Score] = {}
    for task in tasks:
        groups = np.array(task.groups if task.groups else [""] * len(task.queries))
        for metric, of_queries in values[task.name].items():
            scores[f"{task.name}/{metric}"] = interval(of_queries)
            for group in sorted(set(groups) - {""}):
                scores[f"{task.name}/{group}/{metric}"] = interval(of_queries[groups == group])
    return scores


def evaluate(encode: Encode, corpus: Corpus, tasks: list[RetrievalTask]) -> dict[str, Score]:
    """`mean_scores` of `query_scores`."""
    return mean_scores(query_scores(encode, corpus, tasks), tasks)


def _per_query(
    queries: Vectors, corpus: Vectors, answers: list[str], ids: list[frozenset[str]]
) -> dict[str, npt.NDArray[np.float64]]:
    depth = min(_DEPTH, len(ids))
    order = np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :depth]
    right = np.array(
        [
            [answer in ids[row] for row in found]
            for answer, found in zip(answers, order, strict=True)
        ]
    )
    counts = Counter(name for of_row in ids for name in of_row)
    total = [counts[answer] for answer in answers]
    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    ideal = np.array([discount[: min(count, depth)].sum() for count in total])
    return {
        "hit@1": right[:, 0].astype(np.float64),
        "hit@10": right.any(axis=1).astype(np.float64),
        "ndcg@10": (right * discount).sum(axis=1) / ideal,
    }
