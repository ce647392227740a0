"""Retrieval figures against values worked out by hand."""

import numpy as np
import pytest

from udfs.gme import Row
from udfs.training.retrieval import Corpus, RetrievalTask, evaluate

VECTORS = {"n": [1.0, 0.0], "ne": [0.8, 0.6], "e": [0.0, 1.0], "s": [-1.0, 0.0]}


def encode(rows):
    return np.array([VECTORS[row.text] for row in rows], dtype=np.float32)


def test_hits_and_ndcg_by_hand():
    corpus = Corpus([Row("n"), Row("ne"), Row("e"), Row("s")], ["a", "b", "b", "c"])
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
