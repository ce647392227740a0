"""Retrieval figures against values worked out by hand."""

import numpy as np
import pyarrow as pa
import pytest

from jobs.stages.evaluate.figures.measures import measure
from udfs.bootstrap import interval
from udfs.gme import Row
from udfs.training.data import PAIRS_SCHEMA, write_pairs
from udfs.training.retrieval import Corpus, RetrievalTask, evaluate
from udfs.training.sources import pairs_tasks
from udfs.training.spec import PairsSpec

VECTORS = {"n": [1.0, 0.0], "ne": [0.8, 0.6], "e": [0.0, 1.0], "s": [-1.0, 0.0]}


def encode(rows):
    return np.array([VECTORS[row.text] for row in rows], dtype=np.float32)


def test_hits_and_ndcg_by_hand():
    corpus = Corpus([Row("n"), Row("ne"), Row("e"), Row("s")], [*map(frozenset, "abbc")])
    task = RetrievalTask("t2i", [Row("n"), Row("e"), Row("n")], ["b", "b", "c"], ["x", "y", "x"])
    scores = evaluate(encode, corpus, [task])
    # ranks of the right rows: n -> ne 2, e 3; e -> e 1, ne 2; n -> s 4
    first = (1 / np.log2(3) + 1 / np.log2(4)) / (1 + 1 / np.log2(3))
    third = 1 / np.log2(5)
    assert scores["t2i/hit@1"].mean == pytest.approx(1 / 3)
    assert scores["t2i/hit@10"].mean == 1.0
    assert scores["t2i/ndcg@10"].mean == pytest.approx((first + 1 + third) / 3)
    assert scores["t2i/x/ndcg@10"].mean == pytest.approx((first + third) / 2)
    assert scores["t2i/y/hit@1"].queries == 1
    assert 0 <= scores["t2i/hit@1"].low < 1 / 3 < scores["t2i/hit@1"].high <= 1


def test_a_positive_that_pairs_name_otherwise_is_right_for_each_of_them(tmp_path):
    rows = [
        {"query_text": "n", "positive_text": "n", "positive_id": "a"},
        {"query_text": "e", "positive_text": "n", "positive_id": "b"},
        {"query_text": "e", "positive_text": "e", "positive_id": "b"},
        {"query_text": "ne", "positive_text": "n"},
        {"query_text": "s", "positive_text": "s", "positive_id": ""},
        {"query_text": "n", "positive_text": "s"},
    ]
    table = pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)
    file = write_pairs(tmp_path / "p.arrow", table.to_batches())
    corpus, tasks = pairs_tasks(PairsSpec(path=str(file)))
    assert [row.text for row in corpus.rows] == ["n", "e", "s"]
    scores = evaluate(encode, corpus, tasks)
    last = 1 / np.log2(4)  # n -> s
    assert scores["t2t/hit@1"].mean == pytest.approx(5 / 6)
    assert scores["t2t/ndcg@10"].mean == pytest.approx((5 + last) / 6)


def test_the_kernel_in_the_loop_gives_what_trec_eval_gives():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(70, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"product-{n % 9}" for n in range(50)]  # 5 or 6 rows of each
    answers = [f"product-{n % 9}" for n in range(20)]
    rows = [Row(str(n)) for n in range(70)]
    task = RetrievalTask("t", rows[50:], answers)
    corpus = Corpus(rows[:50], [frozenset((name,)) for name in ids])
    scores = evaluate(lambda asked: vectors[[int(row.text) for row in asked]], corpus, [task])
    pairs = [(q, d) for q in range(20) for d in range(50)]
    named = {"query_id": [f"q{q:02}" for q, _ in pairs], "id": [str(d) for _, d in pairs]}
    similarity = (vectors[50:] @ vectors[:50].T).astype(np.float64).ravel()
    right = pa.array([int(ids[d] == answers[q]) for q, d in pairs], pa.int32())
    trec = measure(pa.table({**named, "score": similarity}), pa.table({**named, "score": right}))
    for metric in ("hit@1", "hit@10", "ndcg@10"):
        found, wanted = scores[f"t/{metric}"], interval(trec.values[metric])
        assert 0.1 < found.mean < 1, "random vectors should find some"
        assert vars(found) == pytest.approx(vars(wanted), abs=1e-12)
