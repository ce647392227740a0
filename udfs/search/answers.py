"""What a query came to, as rows of the result table: its hits, or one row that says why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from udfs.columns import Columns
from udfs.index.vectors import SCORE_TOLERANCE
from udfs.search.hits import MAX_ROUNDS, Hits
from udfs.specs import MAX_K, SearchSpec
from udfs.strings import arrow_strings

SEARCH_OUTPUT = Columns(
    "query_id string, rank int, id string, vector_id bigint, score double, index_id string, "
    "model_id string, status string, error string"
)


@dataclass(frozen=True)
class QueryAnswer:
    """One query's hits (None: none), and the status that all its rows get: ok, cut, incomplete, or a refusal."""

    query_id: str
    hits: Hits | None
    status: str = "ok"
    error: str | None = None


def refusal(status: str, error: str | None, k: int) -> tuple[str, str | None]:
    """The status and error of a query before it is searched; "ok" stays "ok" where k is 1 to MAX_K."""
    if status == "ok" and not 1 <= k <= MAX_K:
        return "k_out_of_range", f"k is {k}; a query may ask for 1 to {MAX_K} rows"
    return status, error


def rows_wanted(k: int, spec: SearchSpec) -> int:
    """How many rows to look for: under a lowest score one more than asked for, which tells whether it cut any off."""
    return k if spec.min_score is None else k + 1


def answer_query(query_id: str, found: Hits, k: int, spec: SearchSpec) -> QueryAnswer:
    """The answer where the `rows_wanted` best rows are `found`."""
    if not len(found.D):
        reason = "the released table has no vectors"
        if spec.allowed is not None:
            reason = "no row with a vector matches search.filter"
        return QueryAnswer(query_id, None, "no_rows", reason)
    if spec.min_score is not None:
        best = float(found.D[0])
        above = found.take(spec.min_score - SCORE_TOLERANCE <= found.D)
        if not len(above.D):
            reason = f"no row scores {spec.min_score} or more; the best scores {best:.4f}"
            return QueryAnswer(query_id, None, "no_rows", reason)
        if len(above.D) > k:
            reason = f"more than {k} rows score {spec.min_score} or more; these are the best"
            return QueryAnswer(query_id, above.take(slice(k)), "cut", reason)
        if len(above.D) < len(found.D):  # what was not looked for would score less still
            return QueryAnswer(query_id, above)
    if not found.complete:
        reason = (
            f"rows of further groups were not found within {MAX_ROUNDS} rounds; there may be some"
        )
        return QueryAnswer(query_id, found.take(slice(k)), "incomplete", reason)
    return QueryAnswer(query_id, found.take(slice(k)))


def answer_rows(answers: Sequence[QueryAnswer], *, index_id: str, model_id: str) -> pa.RecordBatch:
    """SEARCH_OUTPUT rows of all answers, in their order."""
    hits = [a.hits for a in answers]
    counts = np.array([0 if h is None else len(h.D) for h in hits], dtype=np.int64)
    query = np.repeat(np.arange(len(answers)), np.maximum(counts, 1))
    refused = np.repeat(counts == 0, np.maximum(counts, 1))
    ranks = np.zeros(len(query), np.int32)
    ids = np.full(len(query), None, dtype=object)
    vector_ids, scores = np.zeros(len(query), np.int64), np.zeros(len(query), np.float64)
    some = [h for h in hits if h is not None and len(h.D)]
    if some:
        ranks[~refused] = np.concatenate([np.arange(1, len(h.D) + 1) for h in some])
        ids[~refused] = np.concatenate([h.ids for h in some])
        vector_ids[~refused] = np.concatenate([h.I for h in some])
        scores[~refused] = np.concatenate([h.D for h in some])
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
