"""Searches against exact search: Flat equal, IVF-PQ equal where it must be and near where it may be."""

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.search.indexes import (
    build,
    clustered,
    exact,
    names_of,
    ranked_halves,
    small_ivf_plan,
)
from udfs.errors import IndexDataError
from udfs.index.plan import default_plan
from udfs.recall.recall import recall_at_k
from udfs.search.index import Index
from udfs.specs import SearchOptions

ROWS, DIM = 3000, 48
XB = clustered(ROWS, DIM)
XQ = clustered(50, DIM, seed=1)


@pytest.fixture(scope="module")
def ivf_plan():
    return small_ivf_plan(ROWS, DIM)


@pytest.fixture(scope="module")
def single(ivf_plan, tmp_path_factory):
    root = tmp_path_factory.mktemp("single")
    build(root, XB, ivf_plan)
    return Index.open(root, model_id="model-a")


@pytest.mark.parametrize("shards", [1, 3])
def test_flat_gives_the_ids_of_exact_search(tmp_path, shards):
    build(tmp_path, XB, default_plan(ROWS, DIM, shards=shards))
    D, I = exact(XQ, XB, 10)
    found = Index.open(tmp_path).search(XQ, SearchOptions(10))
    np.testing.assert_array_equal(found.I, I)
    np.testing.assert_allclose(found.D, D, atol=1e-6)
    assert found.ids.tolist() == [names_of(row) for row in I]
    assert (found.D.dtype, found.I.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    "factory", ["OPQ8_32,IVF{nlist},PQ8x4fs", "IVF{nlist},SQ8", "HNSW16", "SQ8"]
)
def test_all_lists_and_all_candidates_are_exact_search(tmp_path, factory):
    plan = default_plan(ROWS, DIM, factory=factory, shards=2)
    build(tmp_path, XB, plan)
    stored = XB if plan.refine == "none" else ranked_halves(XB)
    D, I = exact(XQ, stored, 10)
    found = Index.open(tmp_path).search(
        XQ, SearchOptions(10, nprobe=max(plan.nlist, 1), k_factor=ROWS // 10)
    )
    # Neighbours that tie but for the last bit may change places: the two sums add in another order.
    np.testing.assert_array_equal(np.sort(found.I, axis=1), np.sort(I, axis=1))
    np.testing.assert_allclose(found.D, D, atol=1e-6)


@pytest.mark.slow
def test_default_operating_point_reaches_its_recall(tmp_path):
    xb, xq = clustered(20_000, 64), clustered(200, 64, seed=1)
    plan = default_plan(len(xb), 64, nlist=256, shards=2)
    build(tmp_path, xb, plan, chunk=20_000)
    index = Index.open(tmp_path)
    _, I = exact(xq, xb, 10)
    assert recall_at_k(index.search(xq, SearchOptions(10)).I, I, 10).value >= 0.95
    # Without the re-rank it is not: the vectors are not too easy for the codes.
    assert recall_at_k(index.search(xq, SearchOptions(10, k_factor=1)).I, I, 10).value < 0.8


def test_shards_answer_as_one_index(single, ivf_plan, tmp_path):
    build(tmp_path, XB, replace(ivf_plan, shards=3))
    one, three = (index.search(XQ, SearchOptions(10)) for index in (single, Index.open(tmp_path)))
    assert recall_at_k(three.I, one.I, 10).value >= 0.98
    same = three.I == one.I
    np.testing.assert_allclose(three.D[same], one.D[same], atol=1e-6)


def test_scores_are_inner_products_and_sorted(single):
    found = single.search(XQ, SearchOptions(20))
    true = np.einsum("qd,qkd->qk", XQ, XB[found.I - 10_000_000_000])
    np.testing.assert_allclose(found.D, true, atol=1e-3)  # float16
    assert (np.diff(found.D, axis=1) <= 0).all()


@pytest.mark.parametrize("factory", ["Flat", "OPQ8_32,IVF{nlist},PQ8x4fs", "IVF{nlist},Flat"])
def test_more_results_asked_than_rows_gives_all_rows(tmp_path, factory):
    xb = XB[:700]
    build(tmp_path, xb, default_plan(len(xb), DIM, factory=factory, shards=2))
    found = Index.open(tmp_path).search(XQ[:4], SearchOptions(5000, nprobe=1))
    assert found.I.shape == found.D.shape == found.ids.shape == (4, 700)
    assert all(len(set(row)) == 700 for row in found.I.tolist())


def test_short_lists_are_never_a_short_answer(single, ivf_plan):
    mean = ROWS / ivf_plan.nlist
    found = single.search(XQ, SearchOptions(int(5 * mean), nprobe=1))
    assert all(len(set(row)) == int(5 * mean) for row in found.I.tolist())
    assert found.I.min() >= 10_000_000_000


def test_empty_shards_and_empty_indexes(tmp_path):
    build(tmp_path / "few", XB[:2], default_plan(2, DIM, shards=5))
    found = Index.open(tmp_path / "few").search(XQ, SearchOptions(3))
    np.testing.assert_array_equal(found.I, exact(XQ, XB[:2], 2)[1])
    build(tmp_path / "none", XB[:0], default_plan(0, DIM, shards=2))
    assert Index.open(tmp_path / "none").search(XQ, SearchOptions(3)).I.shape == (50, 0)
    assert Index.open(tmp_path / "few").search(XQ[:0], SearchOptions(1)).I.shape == (0, 1)


def test_blocks_of_queries_do_not_change_the_answer(single, monkeypatch):
    whole = single.search(XQ, SearchOptions(10))
    monkeypatch.setattr("udfs.search.index.BLOCK_CANDIDATES", 1500)
    np.testing.assert_array_equal(single.search(XQ, SearchOptions(10)).I, whole.I)


def test_queries_that_cannot_be_answered_are_errors(single):
    with pytest.raises(IndexDataError, match="40 dimensions but the index has 48"):
        single.search(XQ[:, :40], SearchOptions(1))
    with pytest.raises(IndexDataError, match="row 1 has norm 2"):
        single.search(XQ[:2] * np.array([[1], [2]], dtype=np.float32), SearchOptions(1))
    with pytest.raises(IndexDataError, match="row 0 has NaN"):
        single.search(XQ[:2] * np.float32(np.nan), SearchOptions(1))
    with pytest.raises(IndexDataError, match=r"got shape \(48,\)"):
        single.search(XQ[0], SearchOptions(1))
    for bad in ({"k": 0}, {"k": 1, "nprobe": 0}, {"k": 1, "k_factor": 0}):
        with pytest.raises(ValueError, match="start at 1"):
            single.search(XQ, SearchOptions(**bad))


def test_queries_of_another_model_are_refused(tmp_path):
    build(tmp_path, XB[:10], default_plan(10, DIM), model_id="model-a")
    with pytest.raises(IndexDataError, match=r"queries of model model-b.*of model model-a"):
        Index.open(tmp_path, model_id="model-b")
