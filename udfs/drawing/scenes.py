"""Seeded product pictures: one object of a kind, colour and pattern before a pale background, at about 5 ms each."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from udfs.drawing.geometry import Point, Points, Pose, Shape
from udfs.drawing.indoors import INDOORS
from udfs.drawing.outdoors import OUTDOORS
from udfs.drawing.patterns import PATTERNS

Rgb = tuple[int, int, int]

SHAPES: dict[str, Shape] = {**INDOORS, **OUTDOORS}
KINDS: tuple[str, ...] = tuple(SHAPES)
PATTERN_NAMES: tuple[str, ...] = tuple(PATTERNS)
COLOURS: dict[str, Rgb] = {
    "red": (206, 32, 41),
    "orange": (242, 124, 24),
    "yellow": (247, 210, 35),
    "green": (44, 140, 56),
    "teal": (26, 176, 178),
    "blue": (34, 78, 196),
    "purple": (122, 54, 168),
    "pink": (244, 132, 182),
    "brown": (116, 70, 38),
    "grey": (140, 143, 148),
    "black": (30, 30, 34),
    "white": (250, 250, 248),
}
SECOND_OBJECT_SHARE = 0.35  # of the pictures
_OVERSAMPLING = (
    2  # drawn at twice the size, then averaged: smooth edges without a slow drawing library
)
_INK: Rgb = (46, 44, 52)
_CREAM: Rgb = (252, 248, 236)
# Light products carry dark patterns; all others white ones.
_PATTERN_INK: dict[str, Rgb] = {"white": (84, 92, 116), "yellow": (92, 62, 20)}
_TRIM: dict[str, Rgb] = {"white": (196, 198, 204), "black": (74, 74, 82)}
_FIXED: dict[str, Rgb] = {
    "pale": _CREAM,
    "dark": _INK,
    "wood": (158, 108, 62),
    "glass": (190, 224, 242),
    "metal": (176, 180, 188),
}


@dataclass(frozen=True)
class _Look:
    """Colours and pattern of one object, after jitter."""

    base: Rgb
    trim: Rgb
    ink: Rgb
    pattern: list[Points]


def draw_picture(
    kind: str, colour: str, pattern: str, *, seed: int | str, size: int = 224
) -> Image.Image:
    """An RGB picture, `size` pixels square; the same arguments give the same pixels.

    The seed decides size, place, rotation, shade, pitch of the pattern, background, and whether a small second object
    stands beside. Raises `KeyError` for a kind, colour or pattern that is not in `KINDS`, `COLOURS`, `PATTERN_NAMES`.
    """
    rng = random.Random(f"{seed}/{kind}/{colour}/{pattern}")
    side = size * _OVERSAMPLING
    canvas = _background(rng, side)
    scale = rng.uniform(0.62, 0.84)
    slack = (1.0 - scale) * 0.45
    centre = (0.5 + rng.uniform(-slack, slack), 0.5 + rng.uniform(-slack, slack))
    if rng.random() < SECOND_OBJECT_SHARE:
        _draw_second(canvas, rng, main=centre, besides=kind)
    pose = Pose((centre[0] * side, centre[1] * side), scale * side, rng.uniform(-14, 14))
    _draw_object(canvas, SHAPES[kind], look=_look(colour, pattern, rng), pose=pose)
    return canvas.reduce(_OVERSAMPLING)


def draw_jpeg(kind: str, colour: str, pattern: str, *, seed: int | str, size: int = 224) -> bytes:
    """`draw_picture` as a JPEG file of quality 80 to 92."""
    quality = random.Random(f"{seed}/quality").randint(80, 92)
    out = io.BytesIO()
    draw_picture(kind, colour, pattern, seed=seed, size=size).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _background(rng: random.Random, side: int) -> Image.Image:
    """A pale wall, in half of the pictures with a pale table below."""
    wall = _pale(rng)
    canvas = Image.new("RGB", (side, side), wall)
    if rng.random() < 0.5:
        edge = rng.uniform(0.55, 0.85) * side
        tilt = rng.uniform(-0.04, 0.04) * side
        floor = [(0.0, edge - tilt), (side, edge + tilt), (side, side), (0.0, side)]
        ImageDraw.Draw(canvas).polygon(floor, fill=_pale(rng))
    return canvas


def _pale(rng: random.Random) -> Rgb:
    grey = rng.randint(196, 236)
    red, green, blue = (min(255, max(180, grey + rng.randint(-14, 14))) for _ in range(3))
    return red, green, blue


def _draw_second(canvas: Image.Image, rng: random.Random, *, main: Point, besides: str) -> None:
    """A small other product in the corner farthest from the main one, which is drawn over it."""
    side = canvas.width
    kind = rng.choice([k for k in KINDS if k != besides])
    look = _look(rng.choice(list(COLOURS)), rng.choice(PATTERN_NAMES), rng)
    x, y = (0.14 if m > 0.5 else 0.86 for m in main)
    scale = rng.uniform(0.19, 0.27)
    pose = Pose((x * side, y * side), scale * side, rng.uniform(-20, 20))
    _draw_object(canvas, SHAPES[kind], look=look, pose=pose)


def _look(colour: str, pattern: str, rng: random.Random) -> _Look:
    shift = [rng.randint(-7, 7) for _ in range(3)]
    red, green, blue = (
        min(255, max(0, c + s)) for c, s in zip(COLOURS[colour], shift, strict=True)
    )
    base = (red, green, blue)
    trim = _TRIM.get(colour) or (int(red * 0.66), int(green * 0.66), int(blue * 0.66))
    polygons, pitch = PATTERNS[pattern]
    return _Look(
        base=base,
        trim=trim,
        ink=_PATTERN_INK.get(colour, (252, 252, 250)),
        pattern=polygons(pitch * rng.uniform(0.82, 1.22), rng.random()),
    )


def _draw_object(canvas: Image.Image, parts: Shape, *, look: _Look, pose: Pose) -> None:
    draw = ImageDraw.Draw(canvas)
    line = max(2.0, 0.014 * pose.size)
    texture: Image.Image | None = None
    for part in parts:
        points = pose.place(part.points)
        width = part.width * pose.size
        if part.role == "body" and look.pattern:
            texture = texture or _texture(canvas.size, look, pose)
            _outline(draw, points, width, line)
            mask = Image.new("L", canvas.size)
            _fill(ImageDraw.Draw(mask), points, width, 255)
            canvas.paste(texture, mask=mask)
            continue
        fill = {"body": look.base, "trim": look.trim}.get(part.role) or _FIXED[part.role]
        if part.role in ("body", "trim") or not width:
            _outline(draw, points, width, line)
        _fill(draw, points, width, fill)


def _texture(size: tuple[int, int], look: _Look, pose: Pose) -> Image.Image:
    texture = Image.new("RGB", size, look.base)
    draw = ImageDraw.Draw(texture)
    for polygon in look.pattern:
        draw.polygon(pose.place(polygon), fill=look.ink)
    return texture


def _outline(draw: ImageDraw.ImageDraw, points: list[Point], width: float, line: float) -> None:
    """Ink around a part, under it: without it white products vanish and overlapping parts melt together."""
    closed = points if width else [*points, points[0], points[1]]
    draw.line(closed, fill=_INK, width=round(width + 2 * line), joint="curve")


def _fill(draw: ImageDraw.ImageDraw, points: list[Point], width: float, fill: Rgb | int) -> None:
    if width:
        draw.line(points, fill=fill, width=max(1, round(width)), joint="curve")
    else:
        draw.polygon(points, fill=fill)
