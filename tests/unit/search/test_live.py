"""An index older than its table answers as exact search over the table as it is now."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered
from udfs.index.plan import default_plan
from udfs.search.exact import exact_topk
from udfs.search.index import Index
from udfs.specs import SearchOptions

ROWS, NEW, DIM = 300, 25, 16
XB, XNEW = clustered(ROWS, DIM, clusters=6), clustered(NEW, DIM, seed=2, clusters=6)
XQ = clustered(8, DIM, seed=1, clusters=6)
IDS = np.arange(ROWS, dtype=np.int64) + FIRST_VECTOR_ID


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    build(root, XB, default_plan(ROWS, DIM, factory="Flat", shards=3))
    return Index.open(root)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """New rows, with larger vector_ids than those of the base."""
    root = tmp_path_factory.mktemp("fresh")
    build(root, XNEW, default_plan(NEW, DIM), name="new", first=FIRST_VECTOR_ID + ROWS)
    return Index.open(root)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_equals_exact_search_over_the_rows_of_now(base, fresh, data):
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random(ROWS)
    gone = mask < data.draw(st.sampled_from([0.0, 0.02, 0.5, 0.97, 1.0]))
    k = data.draw(st.sampled_from([1, 7, ROWS + NEW]))
    with_new = data.draw(st.booleans())
    live = base.restrict(gone=IDS[gone][::-1], fresh=fresh if with_new else None)
    blocks = [(IDS[~gone], XB[~gone])]
    if with_new:
        blocks.append((np.arange(NEW) + FIRST_VECTOR_ID + ROWS, XNEW))
    n = min(k, int((~gone).sum()) + NEW * with_new)
    D, I = exact_topk(XQ, blocks, max(n, 1))
    found = live.search(XQ, SearchOptions(k))
    assert live.rows == (~gone).sum() + NEW * with_new
    assert found.I.shape == found.ids.shape == (len(XQ), n)
    np.testing.assert_array_equal(found.I, I[:, :n])
    np.testing.assert_allclose(found.D, D[:, :n], atol=1e-6)
    for vector_id, row_id in zip(found.I.flat, found.ids.flat, strict=True):
        kind = "new" if vector_id >= FIRST_VECTOR_ID + ROWS else "row"
        assert row_id == f"{kind}-{vector_id}"


def test_k_rows_are_found_where_the_nearest_are_all_gone(tmp_path):
    xb = clustered(2000, DIM, clusters=4)
    build(tmp_path, xb, default_plan(2000, DIM, nlist=16))
    base = Index.open(tmp_path)
    nearest = base.search(XQ[:1], SearchOptions(900))
    live = base.restrict(gone=nearest.I[0])
    found = live.search(XQ[:1], SearchOptions(10))
    assert found.I.shape == (1, 10)
    assert not np.isin(found.I, nearest.I).any()
