"""Searches restricted to some rows answer as exact search over those rows, and never with another row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, names_of, ranked_halves
from udfs.index.plan import default_plan
from udfs.index.vectors import floats_of_halves, halves_of_floats, is_in
from udfs.recall.recall import recall_at_k
from udfs.search import index as search_module
from udfs.search.exact import exact_topk
from udfs.search.index import Index
from udfs.search.within import RowSet, exact_within, widen
from udfs.specs import SearchOptions

ROWS, NEW, DIM = 1500, 40, 16
XB, XNEW = clustered(ROWS, DIM, clusters=8), clustered(NEW, DIM, seed=2, clusters=8)
XQ = clustered(6, DIM, seed=1, clusters=8)
IDS = np.arange(ROWS + NEW, dtype=np.int64) + FIRST_VECTOR_ID
STORED = np.vstack([ranked_halves(XB), XNEW])
FACTORIES = ["Flat", "OPQ8_16,IVF{nlist},PQ8x4fs", "IVF{nlist},Flat", "HNSW16", "SQ8"]


@pytest.fixture(scope="module", params=FACTORIES)
def parts(request, tmp_path_factory):
    """An index of each kind in three shards, and new rows."""
    root, new = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("new")
    build(root, XB, default_plan(ROWS, DIM, factory=request.param, nlist=None, shards=3))
    build(new, XNEW, default_plan(NEW, DIM), name="new", first=FIRST_VECTOR_ID + ROWS)
    return Index.open(root), Index.open(new)


@pytest.fixture(params=["few rows", "many rows"])
def rule(request, monkeypatch):
    """Both sides of the rule: exact over the rows, or a bitmap over the lists."""
    if request.param == "many rows":
        monkeypatch.setattr(search_module, "EXACT_ROWS", 0)


@given(data=st.data())
@settings(deadline=None, max_examples=25)
def restricted_equals_exact(base, fresh, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    share = st.sampled_from([0.0, 0.004, 0.3, 1.0])
    allowed = rng.random(len(IDS)) < data.draw(share)
    gone = rng.random(ROWS) < data.draw(share)
    k = data.draw(st.sampled_from([1, 10, ROWS]))
    plan = base.manifest.spec.plan
    found = base.restrict(
        gone=IDS[:ROWS][gone][::-1], fresh=fresh, allowed=rng.permutation(IDS[allowed])
    ).search(XQ, SearchOptions(k, nprobe=max(plan.nlist, 1), k_factor=ROWS))
    alive = allowed & ~np.concatenate([gone, np.zeros(NEW, bool)])
    n = min(k, int(alive.sum()))
    stored = STORED if plan.refine == "fp16" else np.vstack([XB, XNEW])
    D, I = exact_topk(XQ, [(IDS[alive], stored[alive])], max(n, 1))
    assert found.I.shape == found.ids.shape == (len(XQ), n)
    np.testing.assert_allclose(found.D, D[:, :n], atol=1e-6)
    # Neighbours that tie but for the last bit may change places.
    assert (I[:, :n] == found.I).mean() > 0.99 if n else True
    assert np.isin(found.I, IDS[alive]).all()
    assert all(len(set(row)) == n for row in found.I.tolist())
    for vector_ids, names in zip(found.I, found.ids, strict=True):
        kinds = ["new" if v >= FIRST_VECTOR_ID + ROWS else "row" for v in vector_ids]
        assert names.tolist() == [
            names_of([v], kind)[0] for v, kind in zip(vector_ids, kinds, strict=True)
        ]


def test_all_lists_and_all_candidates_are_exact_search_over_the_rows(parts, rule):
    restricted_equals_exact(*parts)


@pytest.mark.slow
def test_rare_and_far_rows_are_found_from_few_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(search_module, "EXACT_ROWS", 0)
    xb, xq = clustered(20_000, 32), clustered(100, 32, seed=1)
    build(tmp_path, xb, default_plan(20_000, 32, nlist=128))
    base = Index.open(tmp_path)
    ids = np.arange(len(xb), dtype=np.int64) + FIRST_VECTOR_ID
    rare = np.random.default_rng(0).random(len(xb)) < 0.01
    far = (xb @ xq[0]) < np.quantile(xb @ xq[0], 0.02)
    # Searched and filtered afterwards, the first would find .1 of 10 rows a query, and the second none.
    for mask, queries, least in ((rare, xq, 0.98), (far, xq[:1], 0.7)):
        _, I = exact_topk(queries, [(ids[mask], xb[mask])], 10)
        found = base.restrict(allowed=ids[mask]).search(queries, SearchOptions(10, nprobe=4))
        assert np.isin(found.I, ids[mask]).all()
        assert recall_at_k(found.I, I, 10).value >= least


def test_a_few_rows_gone_do_not_make_a_small_index_an_exact_one(tmp_path, monkeypatch):
    """Reading every vector cost nine times as much as the lists."""
    build(tmp_path, XB, default_plan(ROWS, DIM, nlist=16))
    base = Index.open(tmp_path)
    exact: list[int] = []
    monkeypatch.setattr(
        search_module, "exact_within", lambda *a: exact.append(1) or exact_within(*a)
    )
    some, most = IDS[:ROWS][::5], IDS[:ROWS][np.arange(ROWS) % 5 > 0]
    found = base.restrict(gone=some).search(XQ, SearchOptions(10, nprobe=16, k_factor=ROWS))
    assert not exact and not np.isin(found.I, some).any()
    base.restrict(gone=most).search(XQ, SearchOptions(10))
    assert exact


def test_lossy_codes_alone_are_read_in_full_where_the_rows_are_few(tmp_path):
    """No vectors to look up by row: the few rows are found whatever nprobe was asked."""
    build(tmp_path, XB, default_plan(ROWS, DIM, factory="IVF{nlist},Flat", nlist=16))
    allowed = IDS[:ROWS][::100]
    found = Index.open(tmp_path).restrict(allowed=allowed).search(XQ, SearchOptions(15, nprobe=1))
    _, I = exact_topk(XQ, [(allowed, XB[::100])], 15)
    np.testing.assert_array_equal(found.I, I)


def test_nothing_allowed_finds_nothing(tmp_path):
    build(tmp_path, XB, default_plan(ROWS, DIM, nlist=8, shards=2))
    live = Index.open(tmp_path).restrict(allowed=np.array([5], np.int64))
    assert live.rows == 0
    assert live.search(XQ, SearchOptions(3)).I.shape == (len(XQ), 0)


@given(st.lists(st.integers(-5, 40), max_size=60), st.lists(st.integers(-5, 40), max_size=60))
def test_named_in_is_isin(values, named):
    x, y = np.array(values, np.int64), np.unique(np.array(named, np.int64))
    np.testing.assert_array_equal(is_in(x, y), np.isin(x, y))


@given(st.lists(st.lists(st.booleans(), max_size=40), max_size=4), st.randoms())
def test_row_sets_keep_their_rows_and_lose_those_taken_away(masks, random):
    masks = [np.array(mask, np.bool_) for mask in masks]
    taken = [np.array([random.random() < 0.5 for _ in mask], np.bool_) for mask in masks]
    rows = RowSet.of(masks)
    assert rows.rows == sum(mask.sum() for mask in masks)
    for left, mask, gone in zip(
        rows.less(taken).masks([len(m) for m in masks]), masks, taken, strict=True
    ):
        np.testing.assert_array_equal(left, mask & ~gone)


def test_floats_become_the_nearest_halves():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((500, 64)) * 10.0 ** rng.integers(-9, 1, (500, 64))).astype("<f4")
    kept = halves_of_floats(x).view("<f2")
    nearest = x.astype("<f2")
    assert kept.shape == x.shape and (kept == nearest).mean() > 0.999
    # The rest lie half way between two: either is as near.
    np.testing.assert_array_equal(np.abs(kept - x), np.abs(nearest - x))


def test_halves_become_the_floats_that_numpy_makes_of_them():
    halves = np.arange(1 << 16, dtype="<u2").view("<f2")
    halves = halves[np.isfinite(halves)].reshape(-1, 2)
    floats = floats_of_halves(halves)
    assert floats.dtype == np.float32 and floats.shape == halves.shape
    np.testing.assert_array_equal(floats.view(np.uint32), halves.astype(np.float32).view(np.uint32))


def test_rarer_rows_are_looked_for_in_more_lists():
    def lists(of, rows):
        return widen(32, RowSet.of([np.arange(rows) < of]), rows)

    assert lists(1000, 1000) == 32
    assert 4 * 32 <= lists(10, 1000) <= 5 * 32
    assert lists(0, 1000) >= lists(1, 1000) > lists(10, 1000)
