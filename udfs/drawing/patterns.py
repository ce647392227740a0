"""The six patterns as lists of polygons that cover a unit square with some room around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from udfs.drawing.geometry import Points, box, ellipse

LOW, HIGH = -0.1, 1.1  # outlines and strokes reach a little over the unit square


def _grid(pitch: float, phase: float) -> Iterator[tuple[float, float, int, int]]:
    """Cells (x, y, column, row) of a square grid that covers the object."""
    count = math.ceil((HIGH - LOW) / pitch) + 1
    start = LOW - pitch * phase
    for row in range(count):
        for column in range(count):
            yield start + column * pitch, start + row * pitch, column, row


def plain(pitch: float, phase: float) -> list[Points]:
    """Nothing at all."""
    return []


def stripes(pitch: float, phase: float) -> list[Points]:
    """Horizontal bars, thinner than the gaps: the product's own colour must keep most of the area."""
    count = math.ceil((HIGH - LOW) / pitch) + 1
    tops = (LOW + (i - phase) * pitch for i in range(count))
    return [box(LOW, y, HIGH, y + 0.38 * pitch) for y in tops]


def dots(pitch: float, phase: float) -> list[Points]:
    """Discs on a staggered grid."""
    radius = 0.27 * pitch
    return [
        ellipse(x + (0.5 * pitch if row % 2 else 0.0), y, radius, radius)
        for x, y, _, row in _grid(pitch, phase)
    ]


def checks(pitch: float, phase: float) -> list[Points]:
    """A chess board whose dark squares are a little small, so that black on white is not white on black."""
    side = 0.7 * pitch
    ink = 0.84 * side
    return [
        box(x, y, x + ink, y + ink)
        for x, y, column, row in _grid(side, phase)
        if (column + row) % 2
    ]


def zigzag(pitch: float, phase: float) -> list[Points]:
    """Bands of chevrons."""
    half, thick = 0.55 * pitch, 0.36 * pitch
    count = math.ceil((HIGH - LOW) / half) + 2
    xs = [LOW + (i - 1 - phase) * half for i in range(count + 1)]
    bands = math.ceil((HIGH - LOW) / pitch) + 2
    polygons: list[Points] = []
    for band in range(bands):
        y = LOW + (band - 1 + phase) * pitch
        edge = tuple((x, y + (half if i % 2 else 0.0)) for i, x in enumerate(xs))
        polygons.append(edge + tuple((x, y + thick) for x, y in reversed(edge)))
    return polygons


def stars(pitch: float, phase: float) -> list[Points]:
    """Five-pointed stars on a staggered grid."""
    outer, inner = 0.42 * pitch, 0.17 * pitch
    star = tuple(
        (
            (outer if i % 2 == 0 else inner) * math.sin(math.pi * i / 5),
            -(outer if i % 2 == 0 else inner) * math.cos(math.pi * i / 5),
        )
        for i in range(10)
    )
    polygons: list[Points] = []
    for x, y, _, row in _grid(pitch, phase):
        shift = 0.5 * pitch if row % 2 else 0.0
        polygons.append(tuple((x + shift + dx, y + dy) for dx, dy in star))
    return polygons


# pattern: (polygons at a pitch and phase, mean pitch in units of the object's size)
PATTERNS: dict[str, tuple[Callable[[float, float], list[Points]], float]] = {
    "plain": (plain, 0.2),
    "stripes": (stripes, 0.15),
    "dots": (dots, 0.16),
    "checks": (checks, 0.17),
    "zigzag": (zigzag, 0.17),
    "stars": (stars, 0.21),
}
