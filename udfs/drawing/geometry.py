"""Outlines in a unit square (y points down): boxes, ellipses, smooth curves, and the pose that puts them on a canvas."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Points = tuple[Point, ...]
Role = Literal["body", "trim", "pale", "dark", "wood", "glass", "metal"]


@dataclass(frozen=True)
class Part:
    """One piece of an object: a filled polygon, or with a `width` a stroke along the points.

    `body` parts carry the product's colour and pattern, `trim` a plain shade of the colour; the rest have fixed colours.
    """

    role: Role
    points: Points
    width: float = 0.0  # of the stroke, in units of the object's size; 0 fills the polygon


Shape = tuple[Part, ...]


@dataclass(frozen=True)
class Pose:
    """Where the unit square lands: `centre` and `size` in pixels, `turn` in degrees (clockwise on screen)."""

    centre: Point
    size: float
    turn: float = 0.0

    def place(self, points: Iterable[Point]) -> list[Point]:
        """Points of the unit square in pixels."""
        cos, sin = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
        (cx, cy), size = self.centre, self.size
        return [
            (
                cx + size * ((x - 0.5) * cos - (y - 0.5) * sin),
                cy + size * ((x - 0.5) * sin + (y - 0.5) * cos),
            )
            for x, y in points
        ]


def ellipse(cx: float, cy: float, rx: float, ry: float, *, arc: Point = (0.0, 360.0)) -> Points:
    """Points along an ellipse from angle `arc[0]` to `arc[1]`, degrees clockwise from three o'clock."""
    steps = max(8, int(abs(arc[1] - arc[0]) / 12))
    angles = (math.radians(arc[0] + (arc[1] - arc[0]) * i / steps) for i in range(steps + 1))
    return tuple((cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles)


def box(x0: float, y0: float, x1: float, y1: float, *, radius: float = 0.0) -> Points:
    """Corners of a rectangle, rounded where `radius` > 0."""
    if radius <= 0:
        return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    corners = (
        (x1 - radius, y0 + radius, -90.0),
        (x1 - radius, y1 - radius, 0.0),
        (x0 + radius, y1 - radius, 90.0),
        (x0 + radius, y0 + radius, 180.0),
    )
    return tuple(p for x, y, a in corners for p in ellipse(x, y, radius, radius, arc=(a, a + 90.0)))


def mirror(points: Points) -> Points:
    """A right half (top to bottom) closed by its mirror image about x = 0.5."""
    return points + tuple((1.0 - x, y) for x, y in reversed(points))


def smooth(points: Points, *, closed: bool = True, steps: int = 6) -> Points:
    """A Catmull-Rom curve through the points (Catmull and Rom, 1974; uniform, tension one half)."""
    n = len(points)
    curve: list[Point] = []
    for i in range(n if closed else n - 1):
        ids = [(i + j) % n if closed else min(max(i + j, 0), n - 1) for j in (-1, 0, 1, 2)]
        p0, p1, p2, p3 = (points[j] for j in ids)
        for s in range(steps):
            t = s / steps
            curve.append((_blend(p0, p1, p2, p3, t, 0), _blend(p0, p1, p2, p3, t, 1)))
    return tuple(curve) if closed else (*curve, points[-1])


def _blend(p0: Point, p1: Point, p2: Point, p3: Point, t: float, axis: int) -> float:
    a, b, c, d = p0[axis], p1[axis], p2[axis], p3[axis]
    linear, square, cube = c - a, 2 * a - 5 * b + 4 * c - d, 3 * b - a - 3 * c + d
    return 0.5 * (2 * b + linear * t + square * t * t + cube * t * t * t)
