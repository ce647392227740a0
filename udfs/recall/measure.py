"""What one task does to measure an index: price operating points by its codes, and search at them with a clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.index.points import Point
from udfs.index.vectors import Floats, Ints
from udfs.recall.query_set import QuerySet, read_query_set
from udfs.recall.recall import Shares, recall_by_query
from udfs.recall.truth import Truth, TruthKey, read_truth
from udfs.search.exact import MISSING
from udfs.search.index import Index
from udfs.specs import SearchOptions

PRICE_OUTPUT = Columns("query int, nprobe int, k_factor int, recall double")
MEASURE_OUTPUT = Columns(f"{PRICE_OUTPUT.ddl}, first double, ms double")
ENOUGH = 0.9995  # mean recall beyond which more lists are not priced
_BLOCK_QUERIES = 64


@dataclass(frozen=True)
class MeasureSpec:
    """An index, the query set in the file `queries`, its exact results in the folder `truth`, and points to search at."""

    root: str
    queries: str
    truth: str
    key: TruthKey
    points: tuple[Point, ...]
    manifest_sha256: str | None = None  # as `SearchSpec` has it


def rank_by_codes(index: Index, xq: Floats, n: int, nprobe: int) -> Ints:
    """vector_ids int64 (q, n) of the best rows by their codes in `nprobe` lists; -1 where those hold fewer."""
    rows = np.full((len(xq), n), MISSING, np.int64)
    for start in range(0, len(xq), _BLOCK_QUERIES):
        at = slice(start, start + _BLOCK_QUERIES)
        rows[at] = index.candidates(index.rotate(xq[at]), n, nprobe)[1]
    return index.vector_ids(rows)


@gives(MEASURE_OUTPUT)
def measure_batches(
    batches: Iterator[pa.RecordBatch], *, spec: MeasureSpec
) -> Iterator[pa.RecordBatch]:
    """Search for every query alone at every point, on one thread; MEASURE_OUTPUT, a row a query and point.

    `recall` is the share of the exact k nearest that is in the result, `first` whether the nearest is; `ms` is wall
    time of the search. Files are read once before. The input's rows are not looked at: it has to have one.
    """
    for _ in batches:
        pass
    queries, truth = read_query_set(spec.queries), read_truth(spec.truth, spec.key)
    k = spec.key.k
    index = Index.open(spec.root, model_id=spec.key.model_id, manifest_sha256=spec.manifest_sha256)
    widest = max(spec.points, key=lambda p: (p.nprobe, p.k_factor))
    index.search(queries.xq, SearchOptions(k, widest.nprobe, widest.k_factor))
    for point in spec.points:
        I, ms = _time_searches(index, queries, k, point)
        recall = recall_by_query(I, truth.I, k, D_exact=truth.D)
        first = recall_by_query(I, truth.I, 1, D_exact=truth.D)
        columns = _point_columns(len(I), point) | {"recall": recall, "first": first, "ms": ms}
        yield MEASURE_OUTPUT.batch(*columns.values())


@gives(PRICE_OUTPUT)
def price_batches(
    batches: Iterator[pa.RecordBatch], *, spec: MeasureSpec
) -> Iterator[pa.RecordBatch]:
    """Recall of every query at every point, as `measure_batches`, from one search per nprobe; PRICE_OUTPUT.

    The k' best rows by the codes are those that are re-ranked, so what is found for the largest k' also tells what is
    found for each smaller one (but for the last bit of float16). Points of more lists than are of use are left out.
    """
    for _ in batches:
        pass
    queries, truth = read_query_set(spec.queries), read_truth(spec.truth, spec.key)
    index = Index.open(spec.root, model_id=spec.key.model_id, manifest_sha256=spec.manifest_sha256)
    for nprobe in sorted({point.nprobe for point in spec.points}):
        factors = sorted(p.k_factor for p in spec.points if p.nprobe == nprobe)
        priced = _price(index, (queries, truth), spec.key.k, nprobe, factors)
        for k_factor, recall in zip(factors, priced, strict=True):
            columns = _point_columns(len(recall), Point(nprobe, k_factor)) | {"recall": recall}
            yield PRICE_OUTPUT.batch(*columns.values())
        if priced[-1].mean() >= ENOUGH:
            return


def _price(
    index: Index,
    asked: tuple[QuerySet, Truth],
    k: int,
    nprobe: int,
    factors: Sequence[int],
) -> list[Shares]:
    """Recall of each query, float64 (q,), for each factor in ascending order."""
    queries, truth = asked
    n = min(k * factors[-1] + 1, index.rows)
    I = _without_own(rank_by_codes(index, queries.xq, n, nprobe), queries.own)
    return [recall_by_query(I[:, : k * factor], truth.I, k, D_exact=truth.D) for factor in factors]


def _time_searches(index: Index, queries: QuerySet, k: int, point: Point) -> tuple[Ints, Shares]:
    """Results without the query's own row, int64 (q, k), and milliseconds (q,)."""
    I = np.full((len(queries.xq), k), MISSING, np.int64)
    ms = np.empty(len(I), np.float64)
    for q, own in enumerate(queries.own):
        fetch, xq = k + int(own != MISSING), queries.xq[q : q + 1]
        start = time.perf_counter()
        found = index.search(xq, SearchOptions(fetch, point.nprobe, point.k_factor))
        ms[q] = (time.perf_counter() - start) * 1e3
        mine = found.I[0][found.I[0] != own][:k]
        I[q, : len(mine)] = mine
    return I, ms


def _without_own(I: Ints, own: Ints) -> Ints:
    """Each row of I without that query's own row, and with those after it moved up."""
    kept = np.argsort(own[:, None] == I, axis=1, kind="stable")
    moved = np.take_along_axis(I, kept, axis=1)
    return np.where((moved == own[:, None]), MISSING, moved)


def _point_columns(queries: int, point: Point) -> dict[str, Ints]:
    return {
        "query": np.arange(queries, dtype=np.int32),
        "nprobe": np.full(queries, point.nprobe, np.int32),
        "k_factor": np.full(queries, point.k_factor, np.int32),
    }
