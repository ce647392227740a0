"""Pairs of the drawn catalogue's train split as rows of a pairs table, pictures as bytes; executors draw them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.drawing import Combination, draw_jpeg
from udfs.drawing.tasks import ATTRIBUTES, SIZE, VALUES, Attribute
from udfs.drawing.training_rows import INSTRUCTIONS
from udfs.drawing.words import change_text, query_text
from udfs.training.pictures import train_combinations
from udfs.training.spec import DrawnSpec

DRAWN_PAIRS_OUTPUT = Columns(
    "direction string, instruction string, query_text string, query_image binary, positive_image binary, "
    "positive_id string"
)


@dataclass(frozen=True)
class DrawnPairsSpec:
    """Pairs by number: text, picture, and (picture + change) to picture in turn. Same seed and number, same pair."""

    seed: int = 0
    views: int = 10  # pictures of each product, as many as a training on drawn pairs has


def draw_pair(number: int, *, spec: DrawnPairsSpec) -> dict[str, Any]:
    """Columns of the pair `number`; `positive_id` is the product. No held-out product is shown or asked for.

    Pictures are those that a training on drawn pairs of seed 0 sees.
    """
    rng = random.Random(f"pairs/{spec.seed}/{number}")
    direction = list(INSTRUCTIONS)[number % len(INSTRUCTIONS)]
    target = rng.choice(_known())
    views = rng.sample(range(spec.views), 2)
    text, image = None, None
    if direction == "t2i":
        text = query_text(*target, rng=rng)
    elif direction == "i2i":
        image = _picture(target, views[0])
    else:
        attribute, source = rng.choice(_changes(target))
        text = change_text(attribute, getattr(target, attribute), rng=rng)
        image = _picture(source, views[0])
    return {
        "direction": direction,
        "instruction": INSTRUCTIONS[direction],
        "query_text": text,
        "query_image": image,
        "positive_image": _picture(target, views[1]),
        "positive_id": "/".join(target),
    }


@gives(DRAWN_PAIRS_OUTPUT)
def draw_pair_batches(
    batches: Iterator[pa.RecordBatch], *, spec: DrawnPairsSpec
) -> Iterator[pa.RecordBatch]:
    """DRAWN_PAIRS_OUTPUT rows of the numbers in the first column."""
    for batch in batches:
        rows = [draw_pair(number, spec=spec) for number in batch.column(0).to_pylist()]
        yield pa.RecordBatch.from_pylist(rows, schema=DRAWN_PAIRS_OUTPUT.arrow)


@cache
def _known() -> list[Combination]:
    return train_combinations(DrawnSpec(cache=""))


def _changes(target: Combination) -> list[tuple[Attribute, Combination]]:
    """What `target` may have been before the change of one attribute, held-out products left out."""
    known = frozenset(_known())
    return [
        (attribute, source)
        for attribute in ATTRIBUTES
        for value in VALUES[attribute]
        if (source := target._replace(**{attribute: value})) != target and source in known
    ]


def _picture(shown: Combination, view: int) -> bytes:
    return draw_jpeg(*shown, seed=f"train/0/{view}", size=SIZE)
