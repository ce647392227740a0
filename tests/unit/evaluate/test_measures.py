"""Metrics against values worked out by hand and trec_eval's own, and intervals against known ones."""

import math

import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.stages.evaluate.figures.measures import (
    METRICS,
    QueryScores,
    compare_paired,
    first_hits,
    measure,
)
from udfs.bootstrap import RESAMPLES, difference, interval, resample_means
from udfs.errors import LakeError, SettingsError


def ranking(*rows):
    return _table(rows, pa.float64())


def judgements(*rows):
    return _table(rows, pa.int32())


def _table(rows, score):
    schema = pa.schema([("query_id", pa.string()), ("id", pa.string()), ("score", score)])
    return pa.Table.from_pylist(
        [dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema
    )


def run(query_id, ids):
    """Rows of a ranking in which the ids follow each other."""
    return [(query_id, found, 1 - 0.01 * rank) for rank, found in enumerate(ids)]


def test_every_metric_by_hand():
    ids = ["x1", "a", "x2", "x3", "b", "x4", "x5", "x6", "x7", "x8", "x9", "c"]
    judged = judgements(("q", "a", 1), ("q", "b", 3), ("q", "c", 1), ("q", "x1", 0))
    scores = measure(ranking(*run("q", ids)), judged)
    found = 1 / math.log2(3) + 3 / math.log2(6)  # a at rank 2, b at rank 5, c at rank 12
    ideal = 3 + 1 / math.log2(3) + 1 / math.log2(4)
    wanted = {
        "ndcg@5": found / ideal,
        "ndcg@10": found / ideal,
        "recall@1": 0.0,
        "recall@5": 2 / 3,
        "recall@10": 2 / 3,
        "recall@100": 1.0,
        "hit@1": 0.0,
        "hit@5": 1.0,
        "hit@10": 1.0,
        "mrr@10": 1 / 2,
    }
    assert {name: values.tolist() for name, values in scores.values.items()} == {
        name: [pytest.approx(value)] for name, value in wanted.items()
    }
    assert set(wanted) == set(METRICS)
    assert all(values.dtype == np.float64 for values in scores.values.values())


@pytest.mark.parametrize(("rank", "value"), [(1, 1.0), (3, 1 / 3), (4, 0.0), (20, 0.0)])
def test_reciprocal_rank_is_cut(rank, value):
    ids = [f"x{n}" for n in range(1, 30)]
    scores = measure(ranking(*run("q", ids)), judgements(("q", f"x{rank}", 1)), metrics=["mrr@3"])
    assert scores.values["mrr@3"] == pytest.approx([value])


@pytest.mark.parametrize("right", ["a", "m", "z"])
def test_equal_scores_keep_the_order_of_the_ranking(right):
    """trec_eval alone would take z, m, a whatever the order; best score first also where rows are mixed."""
    tied = [("q", "m", 0.5), ("q", "a", 0.5), ("q", "last", 0.1), ("q", "z", 0.5)]
    scores = measure(ranking(*tied), judgements(("q", right, 1)), metrics=["mrr@10"])
    assert scores.values["mrr@10"].tolist() == [1 / (1 + ["m", "a", "z"].index(right))]
    assert first_hits(ranking(*tied), depth=3) == {"q": ["m", "a", "z"]}


def test_scores_that_float32_cannot_tell_apart_keep_their_order():
    near = [("q", "z", 0.7), ("q", "a", 0.7 + 1e-12)]
    scores = measure(ranking(*near), judgements(("q", "a", 1)), metrics=["hit@1"])
    assert scores.values["hit@1"].tolist() == [1.0]


def test_recall_is_a_share_and_hit_is_not():
    judged = judgements(("q", "a", 1), ("q", "b", 1), ("q", "c", 1), ("q", "d", 1))
    scores = measure(
        ranking(*run("q", ["a", "x", "b"])), judged, metrics=["recall@5", "hit@5"]
    ).values
    assert (scores["recall@5"].tolist(), scores["hit@5"].tolist()) == ([0.5], [1.0])


def test_queries_without_ranking_score_zero_and_those_without_right_answer_are_counted():
    ranked = ranking(*run("b", ["x"]), *run("nobody asked", ["x"]), *run("only zeros", ["x"]))
    judged = judgements(("b", "x", 1), ("a", "x", 1), ("only zeros", "x", 0), ("minus", "x", -1))
    scores = measure(ranked, judged, metrics=["ndcg@10", "hit@1"])
    assert scores.query_ids == ["a", "b"]
    assert scores.values["ndcg@10"].tolist() == [0.0, 1.0]
    assert (scores.unranked, scores.unjudged) == (1, 3)
    nothing = measure(ranking(), judged, metrics=["recall@5"])
    assert (nothing.values["recall@5"].tolist(), nothing.unranked) == ([0.0, 0.0], 2)


def test_a_document_judged_twice_counts_once_with_its_highest_score():
    twice = judgements(("q", "a", 1), ("q", "a", 2), ("q", "b", 1))
    once = judgements(("q", "a", 2), ("q", "b", 1))
    ranked = ranking(*run("q", ["b", "a"]))
    values = [measure(ranked, judged).values for judged in (twice, once)]
    assert values[0] == values[1] and values[0]["recall@1"].tolist() == [0.5]


def test_what_cannot_be_scored_is_an_error():
    judged = judgements(("q", "a", 1))
    with pytest.raises(ValueError, match="ranked twice"):
        measure(ranking(("q", "a", 0.5), ("q", "a", 0.4)), judged)
    for score in (None, math.nan, math.inf):
        with pytest.raises(ValueError, match="not a number"):
            measure(ranking(("q", "a", score)), judged)
    with pytest.raises(LakeError, match="among 1 judgements of 2 queries"):
        measure(ranking(*run("q", ["a"])), judgements(("p", "a", 0)))
    for metric in ("map@10", "ndcg", "ndcg@0", "ndcg@10.5", "NDCG@10"):
        with pytest.raises(SettingsError, match="expected ndcg@k"):
            measure(ranking(), judged, metrics=[metric])


def test_more_queries_than_a_block_are_what_trec_eval_says():
    rng = np.random.default_rng(1)
    runs = {f"q{n:04}": [f"d{d}" for d in rng.permutation(40)[:20]] for n in range(2300)}
    judged = {q: {f"d{d}": int(rng.integers(1, 4)) for d in rng.permutation(40)[:3]} for q in runs}
    scores = measure(
        ranking(*(row for q, ids in runs.items() for row in run(q, ids))),
        judgements(*((q, d, s) for q, found in judged.items() for d, s in found.items())),
    )
    names = {"ndcg_cut_10": "ndcg@10", "recall_5": "recall@5", "success_5": "hit@5"}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.5", "success.5"})
    trec = evaluator.evaluate({q: {d: -r for r, d in enumerate(ids)} for q, ids in runs.items()})
    assert scores.query_ids == list(runs) and scores.unranked == 0
    for name, metric in names.items():
        assert scores.values[metric].tolist() == [trec[q][name] for q in runs]


documents = st.integers(0, 30).map(lambda n: f"d{n}")
# trec_eval's ids are C strings: the one character they cannot have is NUL.
queries = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    runs=st.dictionaries(queries, st.lists(documents, unique=True), max_size=4),
    judged=st.dictionaries(
        queries,
        st.dictionaries(documents, st.integers(1, 3), min_size=1),
        min_size=1,
        max_size=4,
    ),
)
def test_metrics_are_shares_and_a_perfect_ranking_gives_one(runs, judged):
    rows = judgements(*((q, d, s) for q, found in judged.items() for d, s in found.items()))
    scores = measure(ranking(*(row for q, ids in runs.items() for row in run(q, ids))), rows)
    assert scores.query_ids == sorted(judged)
    for values in scores.values.values():
        assert np.all((values >= 0) & (values <= 1 + 1e-12))
    best = {q: sorted(found, key=found.get, reverse=True) for q, found in judged.items()}
    perfect = measure(ranking(*(row for q, ids in best.items() for row in run(q, ids))), rows)
    counts = np.array([len(judged[q]) for q in perfect.query_ids])
    for metric, values in perfect.values.items():
        most = np.minimum(1, int(metric.split("@")[1]) / counts) if "recall" in metric else 1.0
        np.testing.assert_allclose(values, np.broadcast_to(most, values.shape))


def test_an_interval_has_the_width_of_theory_and_repeats():
    values = (np.arange(400) % 4 == 0).astype(np.float64)  # a share of .25
    score = interval(values)
    error = math.sqrt(0.25 * 0.75 / 400)
    assert (score.mean, score.queries) == (0.25, 400)
    assert score.low == pytest.approx(0.25 - 1.96 * error, abs=0.01)
    assert score.high == pytest.approx(0.25 + 1.96 * error, abs=0.01)
    assert interval(values) == score and interval(values, seed=1) != score
    assert len(resample_means(values)) == RESAMPLES
    with pytest.raises(ValueError, match="at least one query"):
        interval(np.zeros(0))


def test_blocks_of_a_large_bootstrap_are_drawn_apart():
    means = resample_means(np.random.default_rng(0).random(20_000))
    assert len(means) == RESAMPLES == len(set(means.tolist()))


def test_a_paired_difference_is_narrower_than_the_runs_it_compares():
    rng = np.random.default_rng(2)
    hard = rng.random(300)
    old = {"ndcg@10": hard}
    new = {"ndcg@10": np.clip(hard + np.where(np.arange(300) % 3 == 0, 0.1, 0.0), 0, 1)}
    ids = [f"q{n:03}" for n in range(300)]
    gap = compare_paired(_scores(ids, new), _scores(ids, old), metric="ndcg@10")
    one = interval(hard)
    assert 0 < gap.low < gap.mean < gap.high < one.high - one.low
    assert gap.mean == pytest.approx(float((new["ndcg@10"] - hard).mean()))
    assert 0.25 < gap.better <= 1 / 3 and gap.worse == 0.0 and gap.queries == 300
    back = difference(hard, new["ndcg@10"])
    assert (back.mean, back.better, back.worse) == (-gap.mean, gap.worse, gap.better)
    with pytest.raises(LakeError, match=r"299 queries against 300, 1 of them.*q299"):
        compare_paired(
            _scores(ids[:-1], {"ndcg@10": hard[:-1]}), _scores(ids, old), metric="ndcg@10"
        )


def _scores(ids, values):
    return QueryScores(ids, values)
