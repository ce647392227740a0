"""Shares over time as a small drawing for a page: places of lines, points and words in an SVG of a fixed size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 36  # room for the words at the size that phones get
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_TICKS = 5


@dataclass(frozen=True)
class Measure:
    """A share that was measured at a time; `low` and `high` are its 95 % interval, or the share itself."""

    at: datetime
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Mark:
    """Where a measure is drawn, `low` and `high` those of its interval, and what it says."""

    x: float
    y: float
    low: float
    high: float
    said: str


@dataclass(frozen=True)
class Chart:
    """`lines` by name; `ticks` (y, label) of shares, `dates` (x, label, anchor) and `marks` (x, words) of moments."""

    lines: Mapping[str, Sequence[Mark]]
    ticks: Sequence[tuple[float, str]]
    dates: Sequence[tuple[float, str, str]]
    marks: Sequence[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT

    def path(self, name: str) -> str:
        """The line through the points of `name`, as an SVG polyline has it."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.lines[name])


def draw_shares(
    lines: Mapping[str, Sequence[Measure]], *, marks: Sequence[tuple[datetime, str]] = ()
) -> Chart | None:
    """Place measures by their time and share; None where there are none. Marks outside the measures' time are left out.

    The axis of shares ends at 1 and begins just below the least of them, so that small losses show.
    """
    measures = [one for line in lines.values() for one in line]
    if not measures:
        return None
    first, last = min(one.at for one in measures), max(one.at for one in measures)
    span = (last - first).total_seconds() or 1.0
    least = min(min(one.low, one.value) for one in measures)
    step = next((s for s in _STEPS if (1 - least) / s < _TICKS), _STEPS[-1])
    # A share of exactly a tick still has the axis below it, and all of 1.0 a picture with room.
    bottom = max(0.0, step * (math.ceil(round(least / step, 6)) - 1))

    def x(at: datetime) -> float:
        place = (at - first).total_seconds() / span if last > first else 0.5
        return _LEFT + place * (WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        place = (min(share, 1.0) - bottom) / (1 - bottom)
        return HEIGHT - _BOTTOM - place * (HEIGHT - _TOP - _BOTTOM)

    def point(one: Measure) -> Mark:
        said = f"{one.at:%Y-%m-%d %H:%M} UTC: {one.value:.4f}"
        if (one.low, one.high) != (one.value, one.value):
            said += f" ({one.low:.4f}–{one.high:.4f})"
        return Mark(x(one.at), y(one.value), y(one.low), y(one.high), said)

    form = "%Y-%m-%d" if last.date() > first.date() else "%m-%d %H:%M"
    dates = [(x(first), f"{first:{form}}", "start"), (x(last), f"{last:{form}}", "end")]
    ticks = [1 - step * number for number in range(round((1 - bottom) / step) + 1)]
    digits = 3 if step < 0.01 else 2
    return Chart(
        {name: [point(one) for one in line] for name, line in lines.items() if line},
        [(y(tick), f"{tick:.{digits}f}") for tick in ticks],
        dates if last > first else [(x(first), f"{first:%m-%d %H:%M}", "middle")],
        [(x(at), words) for at, words in marks if first <= at <= last],
    )
