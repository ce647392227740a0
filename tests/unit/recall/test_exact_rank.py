"""rank_block against a sort of all scores: blocks, ties, too few rows, and none."""

import numpy as np
import pyarrow as pa
import pytest

import udfs.recall.exact_rank as module
from udfs.recall.exact_rank import RANK_OUTPUT, RankSpec, rank_block

RNG = np.random.default_rng(0)
DIM = 8
FLOATS = pa.list_(pa.float32())


def unit(rows):
    found = RNG.normal(size=(rows, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def queries(vectors):
    names = [f"q{n}" for n in range(len(vectors))]
    columns = {"task": ["t"] * len(names), "query_id": names}
    return pa.table(columns | {"embedding": pa.array(list(vectors), FLOATS)})


def documents(ids, vectors):
    return pa.table({"vector_id": pa.array(ids), "embedding": pa.array(list(vectors), FLOATS)})


def ranked(found):
    hits = {}
    for row in found.to_pylist():
        hits.setdefault(row["query_id"], []).append((row["vector_id"], row["score"]))
    return hits


@pytest.mark.parametrize(("per_product", "rows", "k"), [(1024, 16_384, 5), (3, 7, 5), (2, 4, 100)])
def test_the_best_of_all_rows_come_first(monkeypatch, per_product, rows, k):
    monkeypatch.setattr(module, "_QUERIES", per_product)
    monkeypatch.setattr(module, "_ROWS", rows)
    xb, xq = unit(50), unit(10)
    xb[30:40] = xb[10:20]  # equal documents: by smaller vector_id
    ids = RNG.permutation(1000)[:50]
    found = rank_block(queries(xq), documents(ids, xb), spec=RankSpec(k, DIM))
    assert found.schema == RANK_OUTPUT.arrow
    hits = ranked(found)
    assert len(hits) == 10
    for number, scores in enumerate(xq @ xb.T):
        got = hits[f"q{number}"]
        assert len(got) == min(k, 50)
        order = np.lexsort((ids, -scores.round(5)))[:k]
        assert [name for name, _ in got] == ids[order].tolist()
        assert [score for _, score in got] == pytest.approx(scores[order].tolist(), abs=1e-6)


def test_no_queries_or_no_documents_are_no_hits():
    some, spec = unit(2), RankSpec(3, DIM)
    for asked, there in ((some[:0], some), (some, some[:0])):
        found = rank_block(queries(asked), documents(range(len(there)), there), spec=spec)
        assert (
            found.num_rows == 0
            and found.schema == rank_block(queries(some), documents([1, 2], some), spec=spec).schema
        )
