"""Vectors, words, or both: `python -m tests.bench.bench_hybrid ../shared/data/retrieval`.

nDCG@10 of exact search with gme-tiny's vectors, of BM25, and of both by reciprocal rank fusion, over rows of picture and
text; the change from vectors to both with paired 95 % intervals. Queries are the test split's. Part numbers are none of the
set's: each row gets one at the end of its text, drawn at random, and a query is the number alone or after the row's title.
The drawn products are the evaluation's of gme-tiny, which was trained on others: every row a picture, with or without text.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from tests.bench.drawn_vectors import encoder
from udfs.bootstrap import difference
from udfs.drawing.splits import HELD_OUT_SEED, held_out
from udfs.drawing.tasks import VIEWS, draw_view, product_queries
from udfs.drawing.words import title
from udfs.full_text.hybrid import MIN_DEPTH, fuse
from udfs.full_text.text_index import FullText
from udfs.gme import Row
from udfs.search.hits import Hits

K, RRF_K = 10, 60
TEXT_TO_ANY = "Find an image that matches the given text."  # what gme-tiny was trained with


class Query(NamedTuple):
    """A text, what it is for, and the positions of the rows that answer it."""

    text: str
    instruction: str | None
    right: set[int]


class Pool(NamedTuple):
    """Rows of text and picture, and queries."""

    name: str
    texts: list[str | None]
    images: list[bytes]
    queries: list[Query]


def main() -> None:
    """Measure all pools and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "retrieval", type=Path, help="folder with catalog, queries and qrels .parquet"
    )
    folder = parser.parse_args().retrieval
    table = Table("queries over rows", "vectors", "words", "both", "both less vectors")
    for pool in (*_judged(folder), *_part_numbers(folder), *_drawn()):
        vectors, words, both = _scores(pool)
        change = difference(both, vectors)
        table.add_row(
            f"{pool.name}: {len(pool.queries)} over {len(pool.texts):,}",
            *(f"{scores.mean():.3f}" for scores in (vectors, words, both)),
            f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]",
        )
    Console(width=130).print(
        f"nDCG@{K} of gme-tiny; rrf_k {RRF_K}, {MIN_DEPTH} rows of each order", table
    )


def _judged(folder: Path) -> Iterator[Pool]:
    catalog, queries, qrels = _tables(folder)
    for name, task in (
        ("history, descriptions of pictures", "history_t2it"),
        ("grocery, titles", "grocery_t2i_title"),
        ("grocery, descriptions", "grocery_t2i_description"),
        ("grocery, categories", "grocery_t2i_category"),
    ):
        rows = [row for row in catalog if row["source"] == task.split("_")[0]]
        place = {row["id"]: at for at, row in enumerate(rows)}
        right = defaultdict(set)
        for one in qrels:
            if one["task"] == task and one["split"] == "test":
                right[one["query_id"]].add(place[one["corpus_id"]])
        asked = [q for q in queries if q["query_id"] in right]
        yield Pool(
            name,
            [_text(row) for row in rows],
            [row["image"] for row in rows],
            [Query(q["text"], q["instruction"], right[q["query_id"]]) for q in asked],
        )


def _part_numbers(folder: Path) -> Iterator[Pool]:
    catalog, _, _ = _tables(folder)
    drawn = random.Random(0)
    numbers = [f"{drawn.choice('ABCDEFGH')}{drawn.randrange(10**5):05d}" for _ in catalog]
    texts = [f"{_text(row)} Art. {number}" for row, number in zip(catalog, numbers, strict=True)]
    images = [row["image"] for row in catalog]
    asked = drawn.sample(range(len(catalog)), 250)
    for name, before in (("part number alone", False), ("title and part number", True)):
        queries = [
            Query(f"{catalog[at]['title']} {numbers[at]}" if before else numbers[at], None, {at})
            for at in asked
        ]
        yield Pool(name, texts, images, queries)


def _drawn() -> Iterator[Pool]:
    products = sorted(held_out(seed=HELD_OUT_SEED))
    rows = [(product, view) for product in products for view in range(VIEWS)]
    drawn = random.Random(0)
    titles = [title(*product, rng=drawn) for product, _ in rows]
    images = [draw_view(product, f"corpus/{view}", seed=0) for product, view in rows]
    right = defaultdict(set)
    for at, (product, _) in enumerate(rows):
        right[product].add(at)
    queries = [
        Query(query.text or "", TEXT_TO_ANY, right[query.wanted])
        for query in product_queries("t2i", products, seed=0)
    ]
    for name, share in (("all rows with text", 1.0), ("half of the rows with text", 0.5)):
        texts = [text if drawn.random() < share else None for text in titles]
        yield Pool(f"drawn products, {name}", texts, images, queries)


def _tables(folder: Path) -> list[list[dict]]:
    names = ("catalog", "queries", "qrels")
    return [pq.read_table(folder / f"{name}.parquet").to_pylist() for name in names]


def _text(row: dict) -> str:
    return f"{row['title']} {row['description'] or ''}".strip()


def _scores(pool: Pool) -> list[np.ndarray]:
    """float64 (q,) of vectors, words and both."""
    rows = [Row(text, image) for text, image in zip(pool.texts, pool.images, strict=True)]
    xb = encoder().encode(rows).vectors
    xq = encoder().encode([Row(q.text, None, q.instruction, is_query=True) for q in pool.queries])
    words = FullText.of(enumerate(pool.texts))
    found: list[list[float]] = [[], [], []]
    for x, query in zip(xq.vectors, pool.queries, strict=True):
        near = np.argsort(-(xb @ x), kind="stable")[:MIN_DEPTH]
        orders = [_hits(near), _hits(words.search(query.text, MIN_DEPTH)[1])]
        orders.append(fuse(orders, K, rrf_k=RRF_K))
        for scores, hits in zip(found, orders, strict=True):
            scores.append(_ndcg(hits, query.right))
    return [np.array(scores) for scores in found]


def _hits(rows: np.ndarray) -> Hits:
    nothing = np.full(len(rows), -1, np.int32)
    ids = np.array([str(row) for row in rows], object)
    return Hits(np.zeros(len(rows), np.float32), rows.astype(np.int64), ids, nothing)


def _ndcg(hits: Hits, right: set[int]) -> float:
    discounts = 1 / np.log2(np.arange(2, K + 2))
    gains = [
        discount for row, discount in zip(hits.I, discounts, strict=False) if int(row) in right
    ]
    return float(sum(gains) / discounts[: len(right)].sum())


if __name__ == "__main__":
    main()
