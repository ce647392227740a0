"""What a query came to, as rows of the result table: its hits, or one row that says why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from udfs.columns import Columns
from udfs.index.vectors import SCORE_TOLERANCE
from udfs.search.hits import NOTHING, Hits
from udfs.search.limited import MAX_ROUNDS
from udfs.specs import MAX_K, SearchSpec
from udfs.strings import arrow_strings

SEARCH_OUTPUT = Columns(
    "query_id string, rank int, id string, vector_id bigint, score double, index_id string, "
    "model_id string, status string, error string"
)


class QueryAnswer(NamedTuple):
    """One query's hits of the k it asks for, and the status that all its rows get: ok, cut, incomplete, or a refusal."""

    query_id: str
    k: int
    status: str = "ok"
    error: str | None = None
    hits: Hits = NOTHING


def refuse_k(asked: QueryAnswer) -> QueryAnswer:
    """A query before it is searched: "ok" stays "ok" where k is 1 to MAX_K."""
    if asked.status != "ok" or 1 <= asked.k <= MAX_K:
        return asked
    reason = f"k is {asked.k}; a query may ask for 1 to {MAX_K} rows"
    return asked._replace(status="k_out_of_range", error=reason)


def rows_wanted(k: int, spec: SearchSpec) -> int:
    """How many rows to look for: under a lowest score one more than asked for, which tells whether it cut any off."""
    return k if spec.min_score is None else k + 1


def answer_query(searched: QueryAnswer, spec: SearchSpec) -> QueryAnswer:
    """The answer to a query that has its `rows_wanted` best rows, or was refused."""
    found, k = searched.hits, searched.k
    if searched.status != "ok":
        return searched
    if not len(found.D):
        reason = "the released table has no vectors"
        if spec.allowed is not None:
            reason = "no row with a vector matches search.filter"
        return searched._replace(status="no_rows", error=reason)
    if spec.min_score is not None:
        best = float(found.D[0])
        above = found.take(spec.min_score - SCORE_TOLERANCE <= found.D)
        if not len(above.D):
            reason = f"no row scores {spec.min_score} or more; the best scores {best:.4f}"
            return searched._replace(status="no_rows", error=reason, hits=NOTHING)
        if len(above.D) > k:
            reason = f"more than {k} rows score {spec.min_score} or more; these are the best"
            return searched._replace(status="cut", error=reason, hits=above.take(slice(k)))
        if len(above.D) < len(found.D):  # what was not looked for would score less still
            return searched._replace(hits=above)
    best_k = found.take(slice(k))
    if not found.complete:
        reason = (
            f"rows of further groups were not found within {MAX_ROUNDS} rounds; there may be some"
        )
        return searched._replace(status="incomplete", error=reason, hits=best_k)
    return searched._replace(hits=best_k)


def answer_rows(answers: Sequence[QueryAnswer], *, index_id: str, model_id: str) -> pa.RecordBatch:
    """SEARCH_OUTPUT rows of all answers, in their order."""
    hits = [a.hits for a in answers]
    counts = np.array([len(h.D) for h in hits], dtype=np.int64)
    query = np.repeat(np.arange(len(answers)), np.maximum(counts, 1))
    refused = np.repeat(counts == 0, np.maximum(counts, 1))
    ranks = np.zeros(len(query), np.int32)
    ids = np.full(len(query), None, dtype=object)
    vector_ids, scores = np.zeros(len(query), np.int64), np.zeros(len(query), np.float64)
    if hits:
        ranks[~refused] = np.concatenate([np.arange(1, count + 1) for count in counts])
        ids[~refused] = np.concatenate([h.ids for h in hits])
        vector_ids[~refused] = np.concatenate([h.I for h in hits])
        scores[~refused] = np.concatenate([h.D for h in hits])
    at = pa.array(query)
    return SEARCH_OUTPUT.batch(
        arrow_strings([a.query_id for a in answers]).take(at),
        pa.array(ranks, mask=refused),
        arrow_strings(ids.tolist()),
        pa.array(vector_ids, mask=refused),
        pa.array(scores, mask=refused),
        pa.repeat(index_id, len(query)),
        pa.repeat(model_id, len(query)),
        pa.array([a.status for a in answers], pa.string()).take(at),
        arrow_strings([a.error for a in answers]).take(at),
    )
