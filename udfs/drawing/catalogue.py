"""Rows of the drawn catalogue: each depends on (seed, row number) only, so tasks draw them in parallel."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.drawing.broken import FAULTS, Fault, break_picture
from udfs.drawing.scenes import draw_jpeg
from udfs.drawing.splits import COMBINATIONS, HELD_OUT_SEED, Combination, split_of
from udfs.drawing.words import description, title

CATALOGUE_INPUT = Columns("number bigint")
CATALOGUE_OUTPUT = Columns(
    "id string, title string, description string, kind string, colour string, pattern string, "
    "price double, split string, image binary"
)
_BATCH_ROWS = 256  # about 3 MB of JPEG in one Arrow batch


@dataclass(frozen=True)
class CatalogueSpec:
    """What `draw_batches` draws. Shares are fractions of the rows."""

    seed: int = 0
    size: int = 224  # pixels, square
    no_picture: float = 0.02
    no_description: float = 0.05
    broken: float = 0.01
    held_out_seed: int = HELD_OUT_SEED


@dataclass(frozen=True)
class Product:
    """A row before its picture is drawn."""

    number: int
    combination: Combination
    title: str
    description: str | None
    price: float  # euros
    split: str
    has_picture: bool
    fault: Fault | None  # how the picture will be broken


def product(number: int, *, spec: CatalogueSpec) -> Product:
    """The facts of row `number`, without drawing."""
    rng = random.Random(f"catalogue/{spec.seed}/{number}")
    combination = _shuffle(spec.seed)[number % len(COMBINATIONS)]
    words = title(*combination, rng=rng), description(*combination, rng=rng)
    price = round(rng.uniform(4, 180), 2)
    described = rng.random() >= spec.no_description
    draw, fault = rng.random(), rng.choice(FAULTS)
    has_picture = draw >= spec.no_picture
    broken = has_picture and draw < spec.no_picture + spec.broken
    return Product(
        number=number,
        combination=combination,
        title=words[0],
        description=words[1] if described else None,
        price=price,
        split=split_of(combination, seed=spec.held_out_seed),
        has_picture=has_picture,
        fault=fault if broken else None,
    )


@cache
def _shuffle(seed: int) -> list[Combination]:
    """An order of all combinations: rows walk through it, so that all are shown before one returns."""
    return random.Random(f"order/{seed}").sample(COMBINATIONS, len(COMBINATIONS))


def catalogue_row(number: int, *, spec: CatalogueSpec) -> dict[str, Any]:
    """Row `number` with the columns of `CATALOGUE_OUTPUT`; `id` depends on the number alone, so a new seed changes a row."""
    facts = product(number, spec=spec)
    image: bytes | None = None
    if facts.has_picture:
        image = draw_jpeg(*facts.combination, seed=f"{spec.seed}/{number}", size=spec.size)
        image = break_picture(image, fault=facts.fault) if facts.fault else image
    return {
        "id": f"p{number:07d}",
        "title": facts.title,
        "description": facts.description,
        **facts.combination._asdict(),
        "price": facts.price,
        "split": facts.split,
        "image": image,
    }


def catalogue_rows(n: int, *, seed: int) -> Iterator[dict[str, Any]]:
    """The first `n` rows of a catalogue, with the default shares of missing and broken pictures."""
    spec = CatalogueSpec(seed=seed)
    return (catalogue_row(number, spec=spec) for number in range(n))


@gives(CATALOGUE_OUTPUT)
def draw_batches(
    batches: Iterator[pa.RecordBatch], *, spec: CatalogueSpec
) -> Iterator[pa.RecordBatch]:
    """For `mapInArrow`: row numbers (first column, `CATALOGUE_INPUT`) in, rows of `CATALOGUE_OUTPUT` out."""
    for batch in batches:
        numbers = batch.column(0).to_pylist()
        for start in range(0, len(numbers), _BATCH_ROWS):
            rows = [catalogue_row(n, spec=spec) for n in numbers[start : start + _BATCH_ROWS]]
            yield pa.RecordBatch.from_pylist(rows, schema=CATALOGUE_OUTPUT.arrow)
