"""Vectors that have collapsed, shrunk, moved or come twice are told from good ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from jobs.settings.refresh import GateSettings
from jobs.stages.refresh.drift import check_collapse, check_moved
from udfs.verify.geometry import (
    GEOMETRY_INPUT,
    OVERLAP_INPUT,
    geometry_batches,
    measure_geometry,
    neighbour_overlap,
    overlap_batches,
)

DIM = 32
GATE = GateSettings()


def unit(rows: int, dim: int = DIM, *, seed: int = 0, lean: float = 0.0) -> np.ndarray:
    """Random directions; `lean` draws them towards the first axis."""
    x = np.random.default_rng(seed).standard_normal((rows, dim))
    x[:, 0] += lean
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def refused(x: np.ndarray, before: np.ndarray | None = None) -> set[str]:
    now = measure_geometry(x)
    checks = list(check_collapse(now, GATE))
    if before is not None:
        checks += check_moved(now, measure_geometry(before), GATE)
    for check in checks:
        assert check.passed or check.remedy
    return {check.name for check in checks if not check.passed}


def test_the_effective_rank_is_the_number_of_equal_directions():
    assert measure_geometry(unit(4000)).effective_rank == pytest.approx(DIM, rel=0.01)
    flat = unit(4000, 8)
    padded = np.hstack([flat, np.zeros((4000, DIM - 8), np.float32)])
    assert measure_geometry(padded).effective_rank == pytest.approx(8, rel=0.01)
    assert measure_geometry(np.tile(unit(1), (50, 1))).effective_rank == 1
    # Fewer rows than dimensions: the same by the smaller matrix.
    few = unit(20, 64)
    wide = measure_geometry(few).effective_rank
    assert 10 < wide < 20


def test_good_vectors_pass_and_other_rows_of_the_same_kind_do_too():
    assert refused(unit(1000)) == set()
    assert refused(unit(1000), unit(1000, seed=1)) == set()
    assert refused(unit(1000, lean=5), unit(1000, seed=1, lean=5)) == set()


def test_what_has_collapsed_is_refused():
    assert refused(np.tile(unit(1), (200, 1))) == {"collapse", "near_duplicates"}
    assert refused(unit(1000, lean=60)) >= {"collapse"}
    half = np.vstack([unit(400), np.tile(unit(1, seed=3), (600, 1))])
    assert refused(half) == {"near_duplicates"}


def test_lengths_and_values_that_are_no_numbers_are_refused():
    x = unit(200)
    x[7] *= 1.02
    assert refused(x) == {"norms"}
    x[7, 3] = np.nan
    assert refused(x) == {"norms"}


def test_vectors_that_have_moved_since_the_release_are_refused():
    before = unit(1000, lean=1)
    assert refused(unit(1000, lean=3), before) >= {"mean_shift"}
    narrow = before.copy()
    narrow[:, 16:] *= 0.05
    narrow /= np.linalg.norm(narrow, axis=1, keepdims=True)
    assert refused(narrow, before) >= {"effective_rank"}
    twice = np.vstack([before[:800], before[:200]])
    assert refused(twice, before) == {"duplicates_rise"}


def test_one_row_comes_of_a_partition_and_none_of_less_than_two_rows():
    x = unit(300)
    batches = [GEOMETRY_INPUT.batch(part.tolist()) for part in (x[:100], x[100:], x[:0])]
    (row,) = geometry_batches(iter(batches), dim=DIM)
    found, wanted = row.to_pylist()[0], measure_geometry(x)
    assert found["rows"] == 300 and found["effective_rank"] == pytest.approx(wanted.effective_rank)
    assert found["mean"] == pytest.approx(wanted.mean)
    assert list(geometry_batches(iter([GEOMETRY_INPUT.batch(x[:1].tolist())]), dim=DIM)) == []
    assert pa.types.is_list(row.schema.field("mean").type)


def test_two_models_that_rank_alike_have_all_neighbours_in_common_and_others_as_many_as_by_chance():
    x = unit(1500, 16)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 16)))[0].astype(np.float32)
    assert neighbour_overlap(x, x @ turn.T, k=10).mean() > 0.999
    other = neighbour_overlap(x, unit(1500, 24, seed=2), k=10)
    assert other.shape == (1500,) and other.mean() == pytest.approx(10 / 1499, rel=0.5)
    # By hand: the nearest of the first three rows are 1, 0, 1 and 2, 2, 0.
    one = np.array([[1, 0], [0.9, 0.436], [0, 1]], np.float32)
    two = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    assert neighbour_overlap(one, two, k=1).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="0 < k < n"):
        neighbour_overlap(x[:10], x[:10], k=10)


def test_neighbours_are_compared_over_all_batches_of_a_partition():
    x, y = unit(60, 8), unit(60, 4, seed=1)
    batches = [
        OVERLAP_INPUT.batch(a.tolist(), b.tolist()) for a, b in ((x[:25], y[:25]), (x[25:], y[25:]))
    ]
    (made,) = overlap_batches(iter(batches), dims=(8, 4), k=5)
    assert made.column("share").to_pylist() == neighbour_overlap(x, y, k=5).tolist()
    few = OVERLAP_INPUT.batch(x[:5].tolist(), y[:5].tolist())
    assert list(overlap_batches(iter([few]), dims=(8, 4), k=5)) == []
