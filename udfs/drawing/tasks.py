"""Retrieval tasks over products that no training has seen: documents, queries and judgements, drawn row by row."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.drawing.scenes import COLOURS, KINDS, PATTERN_NAMES, draw_jpeg
from udfs.drawing.splits import COMBINATIONS, HELD_OUT_SEED, Combination, held_out
from udfs.drawing.words import change_text, query_text

Attribute = Literal["kind", "colour", "pattern"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)
VALUES: dict[Attribute, tuple[str, ...]] = {
    "kind": KINDS,
    "colour": tuple(COLOURS),
    "pattern": PATTERN_NAMES,
}
PAIRS = ("t2i", "i2i", "it2i")
CORPORA = ("held_out", "with_neighbours")
SIZE = 224  # pixels, as in the catalogue
VIEWS = 6  # documents of each held-out product
_TEXTS = 2  # text queries of each

DOCUMENTS = Columns("id string, text string, image binary, image_uri string")
QUERIES = Columns(
    "query_id string, text string, image binary, image_uri string, instruction string, "
    "self_id string"
)
JUDGEMENTS = Columns("query_id string, id string, score int")


@dataclass(frozen=True)
class DrawnTaskSpec:
    """One task: 360 texts, 180 pictures or 540 (picture + change) against 1,080 pictures of held-out products.

    `with_neighbours` adds a new view of each of the 972 trained products to the documents: near misses.
    """

    pair: str
    corpus: str = "held_out"
    instruction: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class DrawnQuery:
    """A query before its picture is drawn: what it should find, its text, and what its picture shows."""

    query_id: str
    wanted: Combination
    text: str | None = None
    shown: Combination | None = None
    view: str = ""


def document_count(spec: DrawnTaskSpec) -> int:
    """Documents of the task."""
    return len(_documents(spec.corpus))


def query_count(spec: DrawnTaskSpec) -> int:
    """Queries of the task."""
    return len(draw_queries(spec.pair, spec.seed))


@gives(DOCUMENTS)
def document_batches(
    batches: Iterator[pa.RecordBatch], *, spec: DrawnTaskSpec
) -> Iterator[pa.RecordBatch]:
    """Documents of the numbers in the first column: id, and the picture."""
    for numbers in _numbers(batches):
        rows = [_documents(spec.corpus)[number] for number in numbers]
        drawn = [
            {"id": name, "image": draw_view(shown, f"corpus/{view}", seed=spec.seed)}
            for name, shown, view in rows
        ]
        yield pa.RecordBatch.from_pylist(drawn, schema=DOCUMENTS.arrow)


@gives(QUERIES)
def query_batches(
    batches: Iterator[pa.RecordBatch], *, spec: DrawnTaskSpec
) -> Iterator[pa.RecordBatch]:
    """Queries of the numbers in the first column."""
    for numbers in _numbers(batches):
        queries = [draw_queries(spec.pair, spec.seed)[number] for number in numbers]
        rows = [
            {
                "query_id": query.query_id,
                "text": query.text,
                "image": draw_view(query.shown, query.view, seed=spec.seed)
                if query.shown
                else None,
                "instruction": spec.instruction,
            }
            for query in queries
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=QUERIES.arrow)


@gives(JUDGEMENTS)
def judgement_batches(
    batches: Iterator[pa.RecordBatch], *, spec: DrawnTaskSpec
) -> Iterator[pa.RecordBatch]:
    """Judgements of the queries of the numbers in the first column: every view of the wanted product is right."""
    by_product: dict[Combination, list[str]] = {}
    for name, shown, _ in _documents(spec.corpus):
        by_product.setdefault(shown, []).append(name)
    for numbers in _numbers(batches):
        queries = [draw_queries(spec.pair, spec.seed)[number] for number in numbers]
        rows = [
            {"query_id": query.query_id, "id": name, "score": 1}
            for query in queries
            for name in by_product[query.wanted]
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=JUDGEMENTS.arrow)


@cache
def draw_queries(pair: str, seed: int) -> Sequence[DrawnQuery]:
    """The queries of a pair over the held-out products; a changed product may be one of those trained on."""
    return product_queries(pair, _held_out(), seed=seed)


def product_queries(
    pair: str,
    products: Sequence[Combination],
    *,
    seed: int,
    sources: Set[Combination] = frozenset(COMBINATIONS),
) -> Sequence[DrawnQuery]:
    """Two texts, one new picture, or a change of each attribute for every product, by the pair t2i, i2i or it2i.

    `sources`: what a product may be before its change; its picture is drawn anew.
    """
    rng = random.Random(f"eval/{seed}/{pair}")
    found: list[DrawnQuery] = []
    for wanted in products:
        name = product_name(wanted)
        if pair == "t2i":
            found += [
                DrawnQuery(f"{name}/{n}", wanted, query_text(*wanted, rng=rng))
                for n in range(_TEXTS)
            ]
        elif pair == "i2i":
            found.append(DrawnQuery(name, wanted, None, wanted, "query"))
        else:
            found += [_change(wanted, attribute, sources, rng) for attribute in ATTRIBUTES]
    return found


def product_name(product: Combination) -> str:
    """An id, such as mug-red-polka_dots."""
    return "-".join(product).replace(" ", "_")


def draw_view(shown: Combination, view: str, *, seed: int) -> bytes:
    """A JPEG of a product that no training draws; another `view` is another picture."""
    return draw_jpeg(*shown, seed=f"eval/{seed}/{view}", size=SIZE)


def _change(
    wanted: Combination, attribute: Attribute, sources: Set[Combination], rng: random.Random
) -> DrawnQuery:
    value = getattr(wanted, attribute)
    others = (wanted._replace(**{attribute: v}) for v in VALUES[attribute] if v != value)
    source = rng.choice([other for other in others if other in sources])
    text = change_text(attribute, value, rng=rng)
    name = product_name(wanted)
    return DrawnQuery(f"{name}/{attribute}", wanted, text, source, f"source/{name}")


@cache
def _documents(corpus: str) -> Sequence[tuple[str, Combination, int]]:
    """(id, what it shows, view) of every document."""
    rows = [(shown, view) for shown in _held_out() for view in range(VIEWS)]
    if corpus == "with_neighbours":
        rows += [(shown, 0) for shown in COMBINATIONS if shown not in set(_held_out())]
    return [(f"{product_name(c)}/{view}", c, view) for c, view in rows]


@cache
def _held_out() -> Sequence[Combination]:
    return sorted(held_out(seed=HELD_OUT_SEED))


def _numbers(batches: Iterator[pa.RecordBatch]) -> Iterator[list[Any]]:
    for batch in batches:
        yield batch.column(0).to_pylist()
