"""Metrics of one task from its ranking and judgements, query by query, computed by trec_eval."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from udfs.bootstrap import Difference, Floats, difference
from udfs.errors import LakeError, SettingsError

METRICS = (
    *("ndcg@5", "ndcg@10", "mrr@10"),
    *("recall@1", "recall@5", "recall@10", "recall@100"),
    *("hit@1", "hit@5", "hit@10"),
)
_TREC = {"ndcg": "ndcg_cut", "recall": "recall", "hit": "success", "mrr": "recip_rank"}
_BLOCK = 1000  # queries whose hits are Python objects at one time


@dataclass(frozen=True, eq=False)
class QueryScores:
    """Metrics of a task's judged queries. `values`: metric to float64 (n,), in the order of `query_ids`, sorted.

    `unranked` of the n queries had no ranking and score 0 on everything; `unjudged` more queries have no relevant
    judgement and are not among them.
    """

    query_ids: list[str]
    values: dict[str, Floats]
    unranked: int = 0
    unjudged: int = 0


def measure(
    ranking: pa.Table, judgements: pa.Table, *, metrics: Sequence[str] = METRICS
) -> QueryScores:
    """Score a ranking (query_id, id, score) against judgements (query_id, id, score; relevant where above 0).

    A query's hits are taken best score first, equal scores in the order of their rows. Metrics, at any cut k:

    * `ndcg@k`: linear gain, log2 discount (Järvelin & Kekäläinen 2002), as BEIR and MTEB report it.
    * `recall@k`: share of the relevant documents among the first k.
    * `hit@k`: 1 where any relevant document is among the first k. What M-BEIR, and with it UMRB, prints as
      Recall@k is this one (UniIR's `compute_recall_at_k`): conf/umrb.yaml names hit@k. With one relevant
      document a query the two are the same.
    * `mrr@k`: 1 / rank of the first relevant document, 0 beyond k.

    A ranking must be at least as deep as the largest k. Raises SettingsError for another metric, LakeError where
    no query has a relevant judgement, ValueError for a score that is no number or a document ranked twice.
    """
    asked = {metric: parse_metric(metric) for metric in metrics}
    relevant = _relevant(judgements)
    queries = pc.unique(pa.concat_arrays([_flat(judgements), _flat(ranking)])).to_pylist()
    if not relevant:
        raise LakeError(
            f"no query has a relevant judgement (score above 0) among {judgements.num_rows} judgements of "
            f"{len(queries)} queries; check the task's split and judgements"
        )
    query_ids = sorted(relevant)
    place = {query_id: number for number, query_id in enumerate(query_ids)}
    values = {metric: np.zeros(len(query_ids)) for metric in asked}
    ranked = 0
    for query_id, found in _evaluate(ranking, relevant, asked):
        ranked += 1
        for metric, (name, k) in asked.items():
            values[metric][place[query_id]] = _value(found, name, k)
    return QueryScores(
        query_ids, values, unranked=len(query_ids) - ranked, unjudged=len(queries) - len(query_ids)
    )


def compare_paired(new: QueryScores, old: QueryScores, *, metric: str) -> Difference:
    """Difference new minus old of a metric over the same queries. Raises LakeError where the queries differ."""
    check_same_queries(new, old)
    return difference(new.values[metric], old.values[metric])


def check_same_queries(new: QueryScores, old: QueryScores, *, task: str = "the task") -> None:
    """Raise LakeError, naming a few, where two runs have not scored the same queries."""
    if new.query_ids == old.query_ids:
        return
    apart = sorted(set(new.query_ids) ^ set(old.query_ids))
    raise LakeError(
        f"{task}: {len(new.query_ids)} queries against {len(old.query_ids)}, {len(apart)} of them in one run "
        f"only ({', '.join(apart[:3])}, …); a paired difference needs the same queries: evaluate both on one split"
    )


def parse_metric(metric: str) -> tuple[str, int]:
    """`ndcg@10` as ("ndcg", 10). Raises SettingsError."""
    match = re.fullmatch(r"(ndcg|recall|hit|mrr)@([1-9]\d*)", metric)
    if match is None:
        raise SettingsError(
            f"metric {metric!r}: expected ndcg@k, recall@k, hit@k or mrr@k with k from 1, e.g. ndcg@10"
        )
    return match[1], int(match[2])


def first_hits(ranking: pa.Table, *, depth: int = 10) -> dict[str, list[str]]:
    """Ids of each query's first hits, best first, in the order that `measure` scores."""
    return {
        query_id: list(run) for block in _runs(ranking, depth) for query_id, run in block.items()
    }


def _value(found: Mapping[str, float], name: str, k: int) -> float:
    if name == "mrr":  # trec_eval's reciprocal rank has no cut
        return found["recip_rank"] if found["recip_rank"] >= 1 / k else 0.0
    return found[f"{_TREC[name]}_{k}"]


def _evaluate(
    ranking: pa.Table, relevant: dict[str, dict[str, int]], asked: dict[str, tuple[str, int]]
) -> Iterator[tuple[str, dict[str, float]]]:
    import pytrec_eval

    cuts = {_TREC[name] if name == "mrr" else f"{_TREC[name]}.{k}" for name, k in asked.values()}
    evaluator = pytrec_eval.RelevanceEvaluator(relevant, cuts)
    judged = ranking.filter(pc.is_in(_flat(ranking), pa.array(relevant, pa.string())))
    for block in _runs(judged, max(k for _, k in asked.values())):
        yield from evaluator.evaluate(block).items()


def _runs(ranking: pa.Table, depth: int) -> Iterator[dict[str, dict[str, float]]]:
    """Blocks of query_id to hits in order, with minus their rank as score.

    trec_eval sorts by score, as float32, then by id downwards: only scores that all differ keep our order.
    """
    if not pc.all(pc.is_finite(ranking["score"]), skip_nulls=False, min_count=0).as_py():
        raise ValueError("a ranking has scores that are null, infinite or not a number")
    row = pa.array(np.arange(ranking.num_rows))
    keys = [("query_id", "ascending"), ("score", "descending"), ("row", "ascending")]
    table = ranking.append_column("row", row).sort_by(keys)
    runs = pc.run_end_encode(_flat(table))
    spans = list(
        zip(runs.values.to_pylist(), pairwise([0, *runs.run_ends.to_pylist()]), strict=True)
    )
    for first in range(0, len(spans), _BLOCK):
        block: dict[str, dict[str, float]] = {}
        for query_id, (start, end) in spans[first : first + _BLOCK]:
            ids = table["id"].slice(start, min(depth, end - start)).to_pylist()
            block[query_id] = {found: -float(rank) for rank, found in enumerate(ids)}
            if len(block[query_id]) < len(ids):
                raise ValueError(f"query {query_id}: a document is ranked twice in {ids}")
        yield block


def _relevant(judgements: pa.Table) -> dict[str, dict[str, int]]:
    """query_id to id to score, of scores above 0; a document judged twice has its highest."""
    rows = judgements.filter(pc.field("score") > 0)
    best = rows.group_by(["query_id", "id"]).aggregate([("score", "max")])
    relevant: dict[str, dict[str, int]] = {}
    columns = [best[name].to_pylist() for name in ("query_id", "id", "score_max")]
    for query_id, document, score in zip(*columns, strict=True):
        relevant.setdefault(query_id, {})[document] = score
    return relevant


def _flat(table: pa.Table) -> pa.Array:
    """Column query_id as one string array."""
    return table["query_id"].cast(pa.string()).combine_chunks()
