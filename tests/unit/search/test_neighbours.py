"""A row's neighbours: the best of its hits that are not the row itself, down to the lowest score."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, small_ivf_plan
from udfs.index.plan import default_plan
from udfs.search.groups import NO_GROUP, Groups
from udfs.search.hits import Hits
from udfs.search.index import Index
from udfs.search.neighbours import Pairing, near_others, near_rows
from udfs.specs import SearchOptions, SearchSpec

K = 3


def spec(min_score: float) -> SearchSpec:
    return SearchSpec("/nowhere", "model-a", SearchOptions(K + 1), min_score=min_score)


def hits_of(scores: np.ndarray) -> Hits:
    """The K + 1 best of all rows for each row, as an index finds them at full probe."""
    ids = np.broadcast_to(np.arange(len(scores)), scores.shape)
    order = np.lexsort((ids, -scores), axis=-1)[:, : K + 1]
    names = np.array([f"r{n}" for n in range(len(scores))], object)[order]
    return Hits(
        np.take_along_axis(scores, order, axis=1),
        order.astype(np.int64),
        names,
        np.zeros(order.shape, np.int32),
    )


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_neighbours_are_the_k_best_other_rows_also_where_many_are_equal(
    rows: int, seed: int
) -> None:
    scores = np.random.default_rng(seed).choice([0.5, 0.9, 1.0], (rows, rows)).astype(np.float32)
    np.fill_diagonal(scores, 1)
    asked, found = near_others(np.arange(rows), hits_of(scores), spec(0.9))
    expected = []
    for row in range(rows):
        others = sorted((-float(scores[row, n]), n) for n in range(rows) if n != row)
        expected += [(row, n) for score, n in others[:K] if -score > 0.89]
    assert list(zip(asked.tolist(), found.I.tolist(), strict=True)) == expected
    assert found.ids.tolist() == [f"r{n}" for _, n in expected]


def test_a_score_of_one_is_reached_by_what_float32_makes_of_it() -> None:
    scores = np.array([[1, 1 - 4e-6, 0.999], [1 - 4e-6, 1, 0.999], [0.999, 0.999, 1]], np.float32)
    asked, found = near_others(np.arange(3), hits_of(scores), spec(1.0))
    assert list(zip(asked.tolist(), found.I.tolist(), strict=True)) == [(0, 1), (1, 0)]


DIM, ROWS = 32, 700
LEAST = 0.61  # some rows have no neighbour that near, others hundreds


@pytest.fixture(scope="module", params=["Flat", "OPQ8_32,IVF4,PQ8x4fs"])
def opened(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder: Path = tmp_path_factory.mktemp("index")
    flat = request.param == "Flat"
    xb = clustered(ROWS, DIM, clusters=4)
    plan = (
        default_plan(ROWS, DIM, factory="Flat", shards=2)
        if flat
        else small_ivf_plan(ROWS, DIM, nlist=4, shards=2)
    )
    build(folder, xb, plan)
    return Index.open(folder)


def brute_force(
    x: np.ndarray, codes: np.ndarray, *, pairing: Pairing, k: int
) -> dict[tuple[int, int], float]:
    """(row, neighbour) with their score: the k best of the rows that may be paired, that score LEAST."""
    scores = x @ x.T
    same = (codes[:, None] == codes) & (codes != NO_GROUP)
    others = ~np.eye(len(x), dtype=bool)
    others &= {"all": True, "within": same, "across": ~same}[pairing]
    if pairing == "within":
        others &= (codes != NO_GROUP)[:, None]
    near = {}
    for row in range(len(x)):
        mine = np.flatnonzero(others[row])
        best = mine[np.argsort(-scores[row, mine], kind="stable")[:k]]
        near |= {(row, int(n)): float(scores[row, n]) for n in best if scores[row, n] >= LEAST}
    return near


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["all", "within", "across"]),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_near_rows_are_those_of_brute_force_however_groups_lie(
    opened: Index, pairing: Pairing, k: int, groups: int, seed: int, by_cluster: bool
) -> None:
    x = clustered(ROWS, DIM, clusters=4)
    rng = np.random.default_rng(seed)
    if by_cluster:  # all that is near is of the same group, or hardly anything is
        centres = x @ x[:: ROWS // groups].T
        codes = np.where(
            rng.random(ROWS) < 0.05, rng.integers(groups, size=ROWS), centres.argmax(1)
        )
    else:
        codes = rng.integers(groups, size=ROWS)
    codes = np.where(rng.random(ROWS) < 0.1, NO_GROUP, codes).astype(np.int32)
    own = np.arange(ROWS, dtype=np.int64) + FIRST_VECTOR_ID
    known = codes != NO_GROUP
    index = opened.restrict(groups=Groups(own[known], codes[known]))
    asked = SearchSpec("/nowhere", "model-a", SearchOptions(k + 1, 4, ROWS), min_score=LEAST)
    row, hits = near_rows(index, own, x, asked, pairing=pairing)
    neighbours = (hits.I - FIRST_VECTOR_ID).tolist()
    pairs = list(zip(row.tolist(), neighbours, strict=True))
    found = dict(zip(pairs, hits.D.tolist(), strict=True))
    assert len(found) == len(row)
    expected = brute_force(x, codes, pairing=pairing, k=k)
    # Halves and sums in another order move a score by some 1e-4: near the threshold, and where the k-th is chosen.
    for pair in found.keys() ^ expected.keys():
        score = found[pair] if pair in found else expected[pair]
        kth = min((s for (asking, _), s in expected.items() if asking == pair[0]), default=LEAST)
        assert abs(score - LEAST) < 5e-4 or abs(score - kth) < 5e-4
    assert all(abs(found[p] - expected[p]) < 5e-4 for p in found.keys() & expected.keys())
