"""Which of the rows found for a training pair are its hard negatives, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.strings import python_rows

# `right_keys`, `right_ids`: contents and positive_ids of all right answers of the query. `found`: best first.
NEGATIVES_INPUT = Columns(
    "pair bigint, status string, query_key string, own_key string, own_ids array<string>, "
    "right_keys array<string>, right_ids array<string>, positive_score double, "
    "found array<struct<rank: int, key: string, score: double, ids: array<string>>>"
)
NEGATIVES_OUTPUT = Columns(
    "pair bigint, status string, keys array<string>, positive int, own int, skipped int, too_high int, "
    "alike int, fewer boolean"
)


@dataclass(frozen=True)
class NegativesSpec:
    """How many negatives a pair gets, and what guards against right answers that nobody has marked as such."""

    k: int = 8
    skip: int = 0  # of the best rows that are no known right answers
    highest: float | None = 0.95  # score of a negative as a share of the positive's
    own_picture: bool = False  # a fused query's picture, alone, is its first negative


class Found(NamedTuple):
    """A row found for a query: the key of its content, its score (None: not searched), and what it is right for."""

    key: str
    score: float | None = None
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class MinedQuery:
    """A query, and what is right for it. `own`: a fused query's picture alone."""

    query_key: str
    right_keys: frozenset[str]
    right_ids: frozenset[str] = frozenset()
    own: Found | None = None
    positive_score: float | None = None

    def is_right(self, row: Found) -> bool:
        """Whether the row is a right answer, by its content or by what it is right for."""
        return row.key in self.right_keys or not self.right_ids.isdisjoint(row.ids)


class Chosen(NamedTuple):
    """Keys of the negatives, hardest first, and how many better rows than the last one each guard left out."""

    keys: list[str]
    positive: int = 0
    own: int = 0
    skipped: int = 0
    too_high: int = 0
    alike: int = 0


def choose_negatives(found: list[Found], *, asked: MinedQuery, spec: NegativesSpec) -> Chosen:
    """The first `k` of the rows `found` (best first, keys differ) that no guard leaves out.

    Never a right answer: neither by content nor by any id. Never the query's own content; a fused query's picture
    alone is left out too, or stands first where `own_picture` asks for it. Then the `skip` best of the rest are left
    out, as BGE's mining samples from rank 2 on (FlagEmbedding, hn_mine), and rows that score more than `highest`
    times the positive: TopK-PercPos of NV-Retriever (Moreira et al., 2024, arXiv 2407.15831), which found 0.95 best.
    Below a positive of score 0, the same distance is kept. Rows without score pass that guard.

    Of rows that are right for the same thing the best is taken: four views of one product teach less than four
    products. The others fill up what is missing to `k`.
    """
    limit = _limit(asked.positive_score, spec.highest)
    left_out = {"positive": 0, "own": 0, "skipped": 0, "too_high": 0}
    alike: list[str] = []
    taken: set[str] = set()
    own = {asked.query_key, asked.own.key if asked.own else None}
    first = [asked.own] if asked.own and spec.own_picture else []
    keys = [row.key for row in first if not asked.is_right(row)]
    for row in found:
        if len(keys) == spec.k:
            break
        if asked.is_right(row):
            left_out["positive"] += 1
        elif row.key in own:
            left_out["own"] += row.key not in keys
        elif left_out["skipped"] < spec.skip:
            left_out["skipped"] += 1
        elif row.score is not None and limit is not None and row.score > limit:
            left_out["too_high"] += 1
        elif not taken.isdisjoint(row.ids):
            alike.append(row.key)
        else:
            keys.append(row.key)
            taken.update(row.ids)
    missing = spec.k - len(keys)
    return Chosen(keys + alike[:missing], **left_out, alike=len(alike[missing:]))


@gives(NEGATIVES_OUTPUT)
def choose_batches(
    batches: Iterator[pa.RecordBatch], *, spec: NegativesSpec
) -> Iterator[pa.RecordBatch]:
    """`choose_negatives` for NEGATIVES_INPUT batches; NEGATIVES_OUTPUT rows. None for a pair whose status is not ok."""
    for batch in batches:
        rows = [_chosen_row(row, spec) for row in python_rows(batch)]
        yield pa.RecordBatch.from_pylist(rows, schema=NEGATIVES_OUTPUT.arrow)


def _chosen_row(row: dict[str, Any], spec: NegativesSpec) -> dict[str, Any]:
    chosen = Chosen([])
    if row["status"] == "ok":
        own = Found(row["own_key"], None, tuple(row["own_ids"] or ())) if row["own_key"] else None
        asked = MinedQuery(
            query_key=row["query_key"],
            right_keys=frozenset(row["right_keys"]),
            right_ids=frozenset(row["right_ids"]),
            own=own,
            positive_score=row["positive_score"],
        )
        found = [Found(f["key"], f["score"], tuple(f["ids"] or ())) for f in row["found"] or ()]
        chosen = choose_negatives(found, asked=asked, spec=spec)
    fewer = row["status"] == "ok" and len(chosen.keys) < spec.k
    return {"pair": row["pair"], "status": row["status"], "fewer": fewer, **chosen._asdict()}


def _limit(positive: float | None, highest: float | None) -> float | None:
    if positive is None or highest is None:
        return None
    return positive - (1.0 - highest) * abs(positive)
