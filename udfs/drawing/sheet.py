"""Contact sheets for looking at the drawing: `python -m udfs.drawing.sheet sheet.png [--by kinds|colours|patterns]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from PIL import Image

from udfs.drawing.scenes import COLOURS, KINDS, PATTERN_NAMES, draw_picture

CELL = 112  # pixels: what a product must still be recognisable at


def contact_sheet(by: str, *, seed: int = 0) -> Image.Image:
    """One grid: `kinds` is kind × pattern, `colours` is colour × pattern, `patterns` is kind × colour."""
    colours = list(COLOURS)
    grids: dict[str, tuple[int, list[tuple[str, str, str]]]] = {
        "kinds": (
            len(PATTERN_NAMES) * 2,
            [
                (kind, colours[(i * 5 + j * 7 + half * 3) % len(colours)], pattern)
                for i, kind in enumerate(KINDS)
                for half in (0, 1)
                for j, pattern in enumerate(PATTERN_NAMES)
            ],
        ),
        "colours": (
            len(PATTERN_NAMES) * 2,
            [
                (KINDS[(i * 7 + j + 8 * half) % len(KINDS)], colour, pattern)
                for i, colour in enumerate(colours)
                for half in (0, 1)
                for j, pattern in enumerate(PATTERN_NAMES)
            ],
        ),
        "patterns": (
            len(colours),
            [
                (kind, colour, PATTERN_NAMES[(i + j) % len(PATTERN_NAMES)])
                for (i, kind), (j, colour) in product(enumerate(KINDS), enumerate(colours))
            ],
        ),
    }
    columns, cells = grids[by]
    sheet = Image.new("RGB", (columns * CELL, -(-len(cells) // columns) * CELL))
    for n, (kind, colour, pattern) in enumerate(cells):
        picture = draw_picture(kind, colour, pattern, seed=f"{seed}/{n}").resize((CELL, CELL))
        sheet.paste(picture, (n % columns * CELL, n // columns * CELL))
    return sheet


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="PNG file to write")
    parser.add_argument("--by", choices=("kinds", "colours", "patterns"), default="kinds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    contact_sheet(args.by, seed=args.seed).save(args.path)


if __name__ == "__main__":
    main()
