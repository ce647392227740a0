"""A row's neighbours: the best of its hits that are not the row itself, down to the lowest score."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.search.hits import Hits
from udfs.search.neighbours import near_others
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
