"""At most n rows of a group: equal to going through all rows in order; parts merge to the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, ranked_halves
from udfs.index.plan import default_plan
from udfs.search import index as search_module
from udfs.search import limited as limited_module
from udfs.search.groups import NO_GROUP, Groups
from udfs.search.hits import Hits, merge_hits
from udfs.search.index import Index
from udfs.search.limited import search_limited
from udfs.specs import SearchOptions

ROWS, NEW, DIM = 640, 30, 16
XB, XNEW = clustered(ROWS, DIM, clusters=6), clustered(NEW, DIM, seed=2, clusters=6)
XQ = clustered(5, DIM, seed=1, clusters=6)
IDS = np.arange(ROWS + NEW, dtype=np.int64) + FIRST_VECTOR_ID


@pytest.fixture(scope="module", params=["Flat", "OPQ8_16,IVF{nlist},PQ8x4fs"])
def parts(request, tmp_path_factory):
    root, new = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("new")
    build(root, XB, default_plan(ROWS, DIM, factory=request.param, shards=2))
    build(new, XNEW, default_plan(NEW, DIM), name="new", first=FIRST_VECTOR_ID + ROWS)
    return Index.open(root), Index.open(new)


@pytest.fixture(params=["few rows", "many rows"])
def rule(request, monkeypatch):
    if request.param == "many rows":
        monkeypatch.setattr(search_module, "EXACT_ROWS", 0)


def one_by_one(scores, vector_ids, codes, k, max_per):
    """The definition: all rows, best first, each taken where its group is not full yet."""
    taken, seen = [], {}
    for at in np.lexsort((vector_ids, -scores)):
        seen[codes[at]] = seen.get(codes[at], 0) + 1
        if len(taken) < k and (codes[at] == NO_GROUP or seen[codes[at]] <= max_per):
            taken.append(at)
    return vector_ids[taken], scores[taken]


def drawn_codes(data, rows):
    """Groups of all kinds: one that holds nearly all rows, many of a few, rows without a group."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    kinds = data.draw(st.sampled_from([1, 3, 40, 400]))
    codes = rng.integers(kinds, size=rows) * (
        rng.random(rows) < data.draw(st.sampled_from([0.1, 1]))
    )
    codes[rng.random(rows) < data.draw(st.sampled_from([0, 0, 0.02, 1]))] = NO_GROUP
    return codes.astype(np.int32)


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def limited_equals_the_definition(base, fresh, data):
    codes = drawn_codes(data, len(IDS))
    named = codes != NO_GROUP
    allowed = np.random.default_rng(0).random(len(IDS)) < data.draw(st.sampled_from([0.2, 1.0]))
    k, max_per = data.draw(st.sampled_from([1, 4, 30, 700])), data.draw(st.integers(1, 3))
    live = base.restrict(
        fresh=fresh, groups=Groups(IDS[named], codes[named]),
        allowed=None if allowed.all() else IDS[allowed],
    )  # fmt: skip
    plan = base.manifest.spec.plan
    options = SearchOptions(k, max(plan.nlist, 1), ROWS)
    stored = np.vstack([ranked_halves(XB), XNEW])
    stored = stored if plan.refine == "fp16" else np.vstack([XB, XNEW])
    for x, found in zip(XQ, search_limited(live, XQ, options, max_per=max_per), strict=True):
        scores = stored[allowed] @ x
        _, D = one_by_one(scores, IDS[allowed], codes[allowed], k, max_per)
        assert found.complete
        np.testing.assert_allclose(found.D, D, atol=1e-6)
        true = (stored @ x)[found.I - FIRST_VECTOR_ID]
        np.testing.assert_allclose(found.D, true, atol=1e-6)
        assert len(set(found.I.tolist())) == len(found.I)
        assert np.isin(found.I, IDS[allowed]).all()
        mine = codes[found.I - FIRST_VECTOR_ID]
        np.testing.assert_array_equal(found.groups, mine)
        assert max(np.unique(mine[mine >= 0], return_counts=True)[1], default=0) <= max_per


def test_at_most_so_many_of_a_group_is_what_going_through_all_rows_gives(parts, rule):
    limited_equals_the_definition(*parts)


def test_a_group_of_nearly_all_rows_costs_a_round_and_not_all_rows(parts, monkeypatch):
    base, _ = parts
    codes = np.zeros(ROWS, np.int32)
    others = np.argsort(XB @ XQ[0])[:20]  # the farthest rows of all are the other groups
    codes[others] = np.arange(1, 21)
    fetched = []
    real = Index.search
    monkeypatch.setattr(
        Index, "search", lambda self, xq, o: fetched.append(o.k) or real(self, xq, o)
    )
    live = base.restrict(groups=Groups(IDS[:ROWS], codes))
    (found,) = search_limited(live, XQ[:1], SearchOptions(10), max_per=1)
    assert len(found.D) == 10 and found.complete and len(set(found.groups.tolist())) == 10
    assert fetched == [40, 80]


def test_a_search_that_is_given_up_says_so(parts, monkeypatch):
    monkeypatch.setattr(limited_module, "MAX_ROUNDS", 1)
    base, _ = parts
    live = base.restrict(groups=Groups(IDS[:ROWS], np.zeros(ROWS, np.int32)))
    (found,) = search_limited(live, XQ[:1], SearchOptions(10), max_per=2)
    assert len(found.D) == 2 and not found.complete


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_parts_merge_to_the_answer_of_the_whole(data):
    rows = data.draw(st.integers(0, 40))
    scores = np.array(
        data.draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows)), np.float32
    )
    codes = np.array(
        data.draw(st.lists(st.integers(-1, 4), min_size=rows, max_size=rows)), np.int32
    )
    places = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)), np.int64
    )
    k, max_per = data.draw(st.integers(1, 12)), data.draw(st.sampled_from([1, 2, None]))
    vector_ids = np.arange(rows, dtype=np.int64)
    limit = max_per or rows + 1
    parts = []
    for place in range(4):
        at = np.flatnonzero(places == place)
        I, D = one_by_one(scores[at], vector_ids[at], codes[at], k, limit)
        parts.append(Hits(D, I, np.array([f"row-{i}" for i in I], object), codes[I]))
    whole = merge_hits(parts, k, max_per=max_per)
    I, D = one_by_one(scores, vector_ids, codes, k, limit)
    assert (whole.I.tolist(), whole.D.tolist()) == (I.tolist(), D.tolist())
    assert whole.ids.tolist() == [f"row-{i}" for i in I]
