"""Choice of an operating point by the lower bound, the ladder of indexes, and points asked for by recall."""

from statistics import NormalDist

import numpy as np
import pytest

from udfs.errors import SettingsError
from udfs.index.points import OperatingPoint, Point, point_for
from udfs.recall.ladder import affordable, ladder
from udfs.recall.tuning import (
    K_FACTORS,
    Goal,
    Measured,
    bound_of_kinds,
    cheapest,
    choices,
    grid,
    lower_bound,
    nearest,
    queries_needed,
    shortlist,
    tuning_half,
)

KINDS = np.array(["text"] * 200 + ["image"] * 200)


ONE_SIDED = NormalDist().inv_cdf(0.95)


def shares(mean, n=400, *, spread=0.1, seed=0):
    """Recalls of n queries whose mean is exactly `mean`: half a spread above it, half below."""
    signs = np.random.default_rng(seed).permutation(np.repeat([1, -1], n // 2))
    return mean + spread * signs


def measured(nprobe, mean, ms, *, text=None):
    recalls = np.concatenate([shares(text or mean, 200), shares(mean, 200)])
    return Measured(Point(nprobe, 10), recalls, np.ones(400), np.full(400, float(ms)))


def test_a_mean_at_the_target_is_not_enough():
    at = shares(0.95, 200)
    assert lower_bound(at) == pytest.approx(0.95 - ONE_SIDED * 0.1 / np.sqrt(199))
    points = [measured(8, 0.95, 1.0), measured(16, 0.97, 2.0), measured(32, 0.98, 3.0)]
    assert cheapest(points, KINDS, recall=0.95).point.nprobe == 16
    assert cheapest(points, KINDS, recall=0.95, max_ms=1.5) is None
    assert cheapest(points, KINDS, recall=0.99) is None
    assert lower_bound(np.ones(1)) == -np.inf and lower_bound(np.ones(9)) == 1


def test_few_bad_queries_lower_the_bound_further_than_their_error_says():
    skewed = np.array([1.0] * 195 + [0.0] * 5)
    error = skewed.std(ddof=1) / np.sqrt(200)
    assert 0.94 < lower_bound(skewed) < skewed.mean() - ONE_SIDED * error - 0.001
    assert lower_bound(1 - skewed) == pytest.approx(1 - skewed.mean() - ONE_SIDED * error)
    covered = [
        lower_bound(draw) <= 0.98
        for draw in np.random.default_rng(0).binomial(1, 0.98, (2000, 400)).astype(float)
    ]
    assert np.mean(covered) >= 0.93
    assert queries_needed(0.95, least=200) == 200
    assert queries_needed(0.995, least=200) == 400


def test_an_easy_kind_does_not_carry_a_hard_one():
    points = [measured(8, 0.99, 1.0, text=0.9), measured(16, 0.99, 2.0, text=0.97)]
    assert points[0].recalls.mean() > 0.94
    assert cheapest(points, KINDS, recall=0.94).point.nprobe == 16
    found = choices(points, KINDS, (0.94, 0.97))
    assert found["image", 0.94].point.nprobe == 8 and found["any", 0.94].point.nprobe == 16
    assert ("text", 0.97) not in found and ("any", 0.97) not in found
    assert found["image", 0.97].point.nprobe == 8


def test_what_comes_nearest():
    points = [measured(8, 0.90, 1.0), measured(16, 0.93, 2.0), measured(32, 0.96, 4.0)]
    assert nearest(points, KINDS, max_ms=None).point.nprobe == 32
    assert nearest(points, KINDS, max_ms=2.5).point.nprobe == 16
    assert nearest(points, KINDS, max_ms=0.1).point.nprobe == 8


def test_the_shortlist_has_the_fewest_candidates_per_nprobe_and_the_best_of_all():
    priced = {
        Point(n, f): np.clip(shares(0.5 + 0.1 * a + 0.1 * b, spread=0.01), 0, 1)
        for a, n in enumerate((1, 2, 4))
        for b, f in enumerate((1, 5, 10))
    }
    found = shortlist(priced, KINDS, (0.68,))
    assert found == (Point(1, 10), Point(2, 5), Point(4, 1), Point(4, 10))
    assert shortlist(priced, KINDS, (0.99,)) == (Point(4, 10),)
    # A target that one kind alone reaches is looked at too: points are stored by kind.
    easy = {Point(1, 1): np.where(KINDS == "text", 0.99, 0.5), Point(2, 1): np.full(400, 0.9)}
    assert Point(1, 1) in shortlist(easy, KINDS, (0.95,))


def test_the_grid_is_within_the_lists_and_without_candidates_where_none_are_reranked():
    points = grid(24, refined=True)
    assert {p.nprobe for p in points} == {1, 2, 4, 8, 16, 24}
    assert {p.k_factor for p in points} == set(K_FACTORS)
    assert {p.k_factor for p in grid(24, refined=False)} == {1}
    assert grid(0, refined=False) == (Point(1, 1),)
    assert max(p.nprobe for p in grid(16384, refined=True)) == 1024


def test_halves_are_of_each_kind_and_do_not_depend_on_order():
    names = [f"q{n}" for n in range(400)]
    half = tuning_half(names, KINDS)
    assert half[:200].sum() == half[200:].sum() == 100
    order = np.random.default_rng(0).permutation(400)
    again = tuning_half([names[n] for n in order], KINDS[order])
    np.testing.assert_array_equal(again, half[order])


def test_the_lower_bound_keeps_its_promise_on_queries_it_has_not_seen():
    """The margin is met in at least 90 % of resplits; the plain mean's choice is not."""
    rng = np.random.default_rng(3)
    hard = rng.beta(8, 1.2, 3000)  # one difficulty a query, the same at every point
    pool = {n: np.clip(hard + (1 - hard) * n / 40, 0, 1) for n in range(40)}
    target, met = 0.93, {"bound": [], "mean": []}
    for _ in range(300):
        order = rng.permutation(3000)
        seen, unseen = order[:200], order[200:]
        for name, reaches in (("bound", lower_bound), ("mean", np.mean)):
            fit = [n for n, x in pool.items() if reaches(x[seen]) >= target]
            met[name].append(pool[min(fit)][unseen].mean() >= target)
    assert np.mean(met["bound"]) >= 0.9 > np.mean(met["mean"])


def test_a_goal_reads_as_people_say_it():
    assert str(Goal(0.98, 10, 2.0, 64)) == "recall@10 ≥ 0.98 under 2 ms and 64 bytes a vector"
    assert str(Goal(0.9, 100)) == "recall@100 ≥ 0.9"


@pytest.mark.parametrize(
    ("rows", "dim", "limit", "expected"),
    [
        (50_000, 1536, None, ["Flat", "OPQ64_256", "OPQ128_512", "IVF{nlist},SQ8"]),
        (1_000_000, 1536, 64, ["OPQ64_256", "OPQ64_256"]),
        (1_000_000, 1536, 30, ["OPQ32_128"]),
        (1_000_000, 1536, 2000, ["OPQ64_256", "OPQ64_256", "OPQ128_512", "IVF{nlist},SQ8"]),
        (1_000_000, 1536, 10, []),
        (1_000_000, 256, 64, ["OPQ64_256", "OPQ64_256"]),
        (3000, 32, None, ["Flat", "OPQ16_32", "IVF{nlist},SQ8"]),
        (300, 32, None, ["Flat", "IVF{nlist},SQ8"]),  # too few to train codebooks on
    ],
)
def test_the_ladder_within_bytes(rows, dim, limit, expected):
    found = affordable(ladder(rows, dim), limit)
    assert len(found) == len(expected)
    assert all(c.factory.startswith(name) for c, name in zip(found, expected, strict=True))
    assert all(limit is None or c.bytes <= limit for c in found)


def test_bytes_of_candidates_are_those_of_the_design_table():
    by_name = {str(c).split(",")[0]: c.bytes for c in ladder(1_000_000, 1536)}
    assert by_name["OPQ64_256"] == 40 and by_name["OPQ128_512"] == 72
    assert by_name["OPQ32_128"] == 24 and by_name["IVF4096"] == 1544


def test_twice_the_lists_help_with_time_and_finer_codes_with_recall():
    default, twice, fine, plain = affordable(ladder(1_000_000, 1536), 2000)
    assert (default.helps, twice.helps, fine.helps, plain.helps) == (
        None,
        "time",
        "recall",
        "recall",
    )
    assert twice.nlist == 2 * default.nlist


def test_points_are_asked_for_by_recall():
    def point(target, ms, *, k=10, kind="any", nprobe=8):
        return OperatingPoint(kind, k, target, nprobe, 10, target, target, ms)

    stored = [
        point(0.9, 1.0, nprobe=4),
        point(0.95, 2.0, nprobe=8),
        point(0.99, 1.5, nprobe=16),
        point(0.95, 0.5, kind="image", nprobe=2),
        point(0.999, 0.1, k=1, nprobe=1),
    ]
    assert point_for(stored, recall=0.9, k=10) == Point(4, 10)
    assert point_for(stored, recall=0.92, k=10) == Point(16, 10)  # tuned to more, and faster
    assert point_for(stored, recall=0.95, k=10, kind="image") == Point(2, 10)
    for asked in ({"recall": 0.999, "k": 10}, {"recall": 0.9, "k": 100}):
        with pytest.raises(SettingsError, match=r"has operating points for 0.9 at 10.*tune-index"):
            point_for(stored, **asked)
    with pytest.raises(SettingsError, match="for no recall"):
        point_for([], recall=0.9, k=10)


def test_bound_of_kinds_is_the_lowest():
    recalls = np.concatenate([shares(0.9, 200), shares(0.99, 200)])
    assert bound_of_kinds(recalls, KINDS) == lower_bound(recalls[:200])
