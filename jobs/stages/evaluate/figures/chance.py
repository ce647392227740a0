"""What a random ranking scores on average: the least that any figure has to be held against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from jobs.stages.evaluate.figures.measures import parse_metric


def chance(
    judgements: pa.Table, *, metric: str, documents: int, own: Mapping[str, str] | None = None
) -> float:
    """Mean of the metric over the judged queries, if every order of the documents were as likely.

    `judgements` (query_id, id, score) as for `measure`; `own` names the document that a query's ranking leaves out.
    Exact expectations, not draws: of n documents R relevant, rank i is relevant with probability R/n, and is the
    first that is with probability Π_{j<i} (1 - R/(n-j+1)) · R/(n-i+1).
    """
    gains: dict[str, dict[str, int]] = {}
    columns = [judgements[name].to_pylist() for name in ("query_id", "id", "score")]
    for query_id, name, score in zip(*columns, strict=True):
        if score > 0:
            of_query = gains.setdefault(query_id, {})
            of_query[name] = max(score, of_query.get(name, 0))
    name, k = parse_metric(metric)
    values = []
    for query_id, right in gains.items():
        left_out = (own or {}).get(query_id)
        n = documents - (left_out is not None)
        found = [gain for document, gain in right.items() if document != left_out]
        values.append(_expectation(name, k, n, found, list(right.values())))
    return float(np.mean(values))


def _expectation(name: str, k: int, n: int, found: list[int], ideal: list[int]) -> float:
    """`found`: gains of the relevant documents among the n ranked; `ideal`: of all that the metric counts."""
    ranks = np.arange(1, min(k, n) + 1)
    if not ranks.size:
        return 0.0
    if name == "recall":
        return len(ranks) / n * len(found) / len(ideal)
    if name == "ndcg":
        best = np.sort(ideal)[::-1][:k]
        ideal_dcg = float((best / np.log2(np.arange(2, len(best) + 2))).sum())
        return sum(found) / n * float((1 / np.log2(ranks + 1)).sum()) / ideal_dcg
    each = np.minimum(len(found) / (n - ranks + 1), 1.0)
    first = each * np.concatenate([[1.0], np.cumprod(1 - each)[:-1]])
    return float((first / ranks).sum() if name == "mrr" else first.sum())
