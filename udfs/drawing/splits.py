"""Every kind × colour × pattern, and which of them training never sees."""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from typing import NamedTuple

from udfs.drawing.scenes import COLOURS, KINDS, PATTERN_NAMES

HELD_OUT = 180  # of the 1152 combinations
HELD_OUT_SEED = 0


class Combination(NamedTuple):
    """The three attributes of a product."""

    kind: str
    colour: str
    pattern: str


COMBINATIONS: tuple[Combination, ...] = tuple(
    Combination(*c) for c in product(KINDS, COLOURS, PATTERN_NAMES)
)


@cache
def held_out(*, seed: int = HELD_OUT_SEED) -> frozenset[Combination]:
    """The `HELD_OUT` combinations of which training sees no picture and no text; every single attribute is seen."""
    return frozenset(random.Random(f"held-out/{seed}").sample(COMBINATIONS, HELD_OUT))


def split_of(combination: Combination, *, seed: int = HELD_OUT_SEED) -> str:
    """`held_out` or `train`."""
    return "held_out" if combination in held_out(seed=seed) else "train"
