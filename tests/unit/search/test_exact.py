"""Exact top-k and the merge, against numpy's sort; recall against counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.unit.search.indexes import clustered
from udfs.recall.recall import recall_at_k, wilson
from udfs.search.exact import exact_topk, merge_topk

# Few distinct values, so that ties are common.
VALUES = st.integers(-3, 3).map(float)


@st.composite
def lists(draw):
    """Lists of the same queries, as faiss gives them: some entries missing, ids unique in each row."""
    queries, widths = (
        draw(st.integers(1, 3)),
        draw(st.lists(st.integers(0, 6), min_size=1, max_size=4)),
    )
    D = draw(hnp.arrays(np.float32, (queries, sum(widths)), elements=VALUES))
    ids = [draw(st.permutations(range(sum(widths)))) for _ in range(queries)]
    I = np.array(ids, dtype=np.int64).reshape(D.shape)
    I[draw(hnp.arrays(np.bool_, D.shape))] = -1
    cuts = np.cumsum(widths)[:-1]
    return D, I, np.split(D, cuts, axis=1), np.split(I, cuts, axis=1)


@given(lists(), st.integers(1, 30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_merge_is_a_sort_of_everything(parts, k, keep_max):
    D, I, Ds, Is = parts
    got_D, got_I = merge_topk(Ds, Is, k, keep_max=keep_max)
    assert got_D.shape == got_I.shape == (len(D), k)
    for q in range(len(D)):
        found = [(d, i) for d, i in zip(D[q], I[q], strict=True) if i >= 0]
        found.sort(key=lambda pair: (-pair[0] if keep_max else pair[0], pair[1]))
        worst = (-np.inf if keep_max else np.inf, -1)
        wanted = (found + [worst] * k)[:k]
        assert list(zip(got_D[q], got_I[q], strict=True)) == wanted


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(2)), elements=VALUES),
    st.integers(1, 45),
    st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_exact_topk_does_not_depend_on_blocks_even_with_ties(xb, k, block):
    xq = np.array([[1, 0], [0.5, -1]], dtype=np.float32)
    ids = np.arange(len(xb), dtype=np.int64) * 3
    blocks = [(ids[at : at + block], xb[at : at + block]) for at in range(0, len(xb), block)]
    D, I = exact_topk(xq, blocks, k)
    order = np.argsort(-(xq @ xb.T), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(I[:, : order.shape[1]], ids[order])
    assert (I[:, order.shape[1] :] == -1).all()
    assert np.isneginf(D[:, order.shape[1] :]).all()


def test_exact_topk_on_floats():
    xb, xq = clustered(3000, 32), clustered(20, 32, seed=5)
    ids = np.arange(len(xb), dtype=np.int64)
    D, I = exact_topk(xq, [(ids[:1000], xb[:1000]), (ids[1000:], xb[1000:])], 10)
    order = np.argsort(-(xq @ xb.T), axis=1)[:, :10]
    np.testing.assert_array_equal(I, order)
    np.testing.assert_allclose(D, np.take_along_axis(xq @ xb.T, order, axis=1), rtol=1e-5)


def test_recall_counts_shares_and_knows_its_uncertainty():
    true = np.array([[1, 2], [3, 4], [5, -1]])
    found = np.array([[2, 1], [3, 9], [7, 5]])
    recall = recall_at_k(found, true, 2)
    assert recall.value == pytest.approx((1 + 0.5 + 1) / 3)
    assert recall.low < recall.value < recall.high <= 1
    assert recall_at_k(found, true, 1).value == pytest.approx((0 + 1 + 0) / 3)
    perfect = recall_at_k(np.tile(true[0], (200, 1)), np.tile(true[0], (200, 1)), 2)
    assert perfect.value == 1 and 0.975 < perfect.low < 0.985
    with pytest.raises(ValueError, match="3 and 2"):
        recall_at_k(found, true[:2], 2)


def test_wilson_covers_the_truth_as_often_as_it_says():
    p, n = 0.95, 200
    hits = np.random.default_rng(0).binomial(n, p, size=2000) / n
    inside = [low <= p <= high for low, high in (wilson(float(share), n) for share in hits)]
    assert 0.93 < np.mean(inside) < 0.97
