"""The drawing of shares over time: everything lies in its frame, and small losses show."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.reports.chart import HEIGHT, WIDTH, Measure, draw_shares

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def measure(value: float, *, hours: float = 0.0, low: float | None = None) -> Measure:
    return Measure(NOON + timedelta(hours=hours), value, value if low is None else low, value)


shares = st.floats(0, 1)
measures = st.builds(
    lambda pair, hours: measure(max(pair), hours=hours, low=min(pair)),
    st.tuples(shares, shares),
    st.floats(0, 10_000),
)


@given(st.dictionaries(st.sampled_from(["text", "image", "any"]), st.lists(measures), min_size=1))
def test_all_that_is_drawn_lies_in_the_frame_and_higher_is_better(lines):
    chart = draw_shares(lines, marks=[(NOON, "release 1")])
    if not any(lines.values()):
        assert chart is None
        return
    points = [
        (p, m) for name, line in chart.lines.items() for p, m in zip(line, lines[name], strict=True)
    ]
    top, bottom = chart.ticks[0][0], chart.ticks[-1][0]
    assert 0 < top < bottom < HEIGHT and chart.ticks[0][1] in ("1.00", "1.000")
    for point, _ in points:
        assert chart.left <= point.x <= chart.right < WIDTH
        assert top - 1e-6 <= point.high <= point.y + 1e-6 and point.y <= point.low + 1e-6
        assert point.low <= bottom + 1e-6
    for (one, of_one), (other, of_other) in pairwise(points):
        assert of_one.value <= of_other.value or one.y <= other.y
        assert of_one.at <= of_other.at or one.x >= other.x
    labels = [label for _, label in chart.ticks]
    assert 2 <= len(labels) <= 7 and len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("least", "label"),
    [
        (0.9994, "0.999"),
        (0.996, "0.995"),
        (0.93, "0.92"),
        (0.4, "0.20"),
        (0.0, "0.00"),
        (1.0, "0.999"),
    ],
)
def test_the_axis_begins_just_below_the_least_share(least, label):
    chart = draw_shares({"any": [measure(1.0), measure(least, hours=30)]})
    assert chart.ticks[-1][1] == label
    assert [words for _, words, _ in chart.dates] == ["2026-11-26", "2026-11-27"]


def test_one_moment_stands_in_the_middle_and_marks_of_other_times_are_left_out():
    marks = [(NOON - timedelta(days=1), "release 1"), (NOON, "release 2")]
    chart = draw_shares({"any": [measure(0.98, low=0.97)]}, marks=marks)
    ((point,),) = chart.lines.values()
    assert point.x == pytest.approx((chart.left + chart.right) / 2)
    assert chart.marks == [(point.x, "release 2")]
    assert chart.dates == [(point.x, "11-26 12:00", "middle")]
    assert point.said == "2026-11-26 12:00 UTC: 0.9800 (0.9700–0.9800)"
    assert chart.path("any") == f"{point.x:.1f},{point.y:.1f}"
