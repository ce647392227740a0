"""Drawn products as a training itself is judged: while it runs on trained ones, at its end on held-out ones."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from udfs.drawing import COMBINATIONS, Combination, held_out
from udfs.drawing.splits import HELD_OUT_SEED
from udfs.drawing.tasks import PAIRS, VIEWS, DrawnQuery, draw_view, product_name, product_queries
from udfs.drawing.training_rows import INSTRUCTIONS
from udfs.gme.prepare import Row
from udfs.training.pictures import train_combinations
from udfs.training.retrieval import Corpus, RetrievalTask
from udfs.training.spec import DrawnSpec


@dataclass(frozen=True)
class DrawnEvalSpec:
    """Pictures that no training has seen. Default: 1,080 candidates, 360 + 180 + 540 queries of held-out products.

    `split`: held_out for what is reported; train for what looks into a training while it runs, so that no choice
    made by it has seen a product of the report.
    """

    combinations: int = 180  # of the split
    views: int = VIEWS  # candidates of each
    neighbours: bool = False  # also a new view of each trained combination: near misses
    instructions: bool = True
    split: Literal["held_out", "train"] = "held_out"
    seed: int = 0
    held_out_seed: int = HELD_OUT_SEED


def draw_tasks(spec: DrawnEvalSpec) -> tuple[Corpus, list[RetrievalTask]]:
    """Text to image, image to image, and (image + change text) to image, by the rules of `udfs.drawing.tasks`.

    A composed query's source may be a trained product; one of the train split shows nothing of the report.
    """
    trained = train_combinations(DrawnSpec(cache="", held_out_seed=spec.held_out_seed))
    known = trained if spec.split == "train" else sorted(held_out(seed=spec.held_out_seed))
    chosen = random.Random(f"eval/{spec.seed}").sample(known, len(known))[: spec.combinations]
    sources = set(trained if spec.split == "train" else COMBINATIONS)
    rows = [(c, view) for c in chosen for view in range(spec.views)]
    if spec.neighbours:
        rows += [(c, 0) for c in trained if c not in chosen]
    corpus = Corpus(
        [Row(image=draw_view(c, f"corpus/{view}", seed=spec.seed)) for c, view in rows],
        [frozenset((product_name(c),)) for c, _ in rows],
    )
    return corpus, [_task(pair, chosen, sources, spec) for pair in PAIRS]


def _task(
    pair: str, chosen: list[Combination], sources: set[Combination], spec: DrawnEvalSpec
) -> RetrievalTask:
    """Composed queries are grouped by the attribute that changes."""
    queries = product_queries(pair, chosen, seed=spec.seed, sources=sources)
    groups = [query.query_id.rpartition("/")[2] for query in queries] if pair == "it2i" else None
    rows = [_row(query, pair, spec) for query in queries]
    return RetrievalTask(pair, rows, [product_name(query.wanted) for query in queries], groups)


def _row(query: DrawnQuery, pair: str, spec: DrawnEvalSpec) -> Row:
    image = draw_view(query.shown, query.view, seed=spec.seed) if query.shown else None
    return Row(query.text, image, INSTRUCTIONS[pair] if spec.instructions else None, True)
