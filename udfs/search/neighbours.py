"""The function handed to mapInArrow by find-duplicates: stored vectors in, each row's nearest other rows out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.index.vectors import SCORE_TOLERANCE, Ints, floats_of, is_in
from udfs.search.batches import open_search
from udfs.search.hits import Hits
from udfs.search.row_files import read_vector_ids
from udfs.specs import SearchSpec
from udfs.strings import arrow_strings

NEIGHBOURS_INPUT = Columns("vector_id bigint, id string, embedding array<float>")
NEIGHBOURS = Columns("id string, neighbour string, vector_id bigint, score double")


@gives(NEIGHBOURS)
def neighbour_batches(
    batches: Iterator[pa.RecordBatch], *, spec: SearchSpec, shards: tuple[int, ...] | None = None
) -> Iterator[pa.RecordBatch]:
    """Search the index for the rows of NEIGHBOURS_INPUT batches; one NEIGHBOURS row for each near other row.

    `spec.options.k` is one more than the neighbours of a row: the row is its own nearest. Those below `spec.min_score`
    are left out. With `spec.allowed` only these rows ask, too. With `shards` these alone are searched, as a part of
    the index. `vector_id` is the neighbour's. Raises IndexDataError as `search_batches` does.
    """
    asking = None if spec.allowed is None else read_vector_ids(spec.allowed)
    for batch in batches:
        rows = batch if asking is None else batch.filter(_is_asking(batch, asking))
        if not rows.num_rows:
            continue
        index = open_search(spec, shards=shards)
        xq = floats_of(rows.column("embedding"), index.manifest.spec.dim, what="stored vectors")
        own = np.asarray(rows.column("vector_id"), dtype=np.int64)
        row, hits = near_others(own, index.search(xq, spec.options), spec)
        yield NEIGHBOURS.batch(
            rows.column("id").take(pa.array(row)),
            arrow_strings(hits.ids.tolist()),
            hits.I,
            hits.D.astype(np.float64),
        )


def near_others(own: Ints, found: Hits, spec: SearchSpec) -> tuple[Ints, Hits]:
    """What is left of hits (q, n) of the rows with vector_ids `own` int64 (q,): the number of each one's row, and the hits.

    A row itself is no neighbour. Where k others score as much, it may not be among its own hits: then the last goes.
    """
    least = -np.inf if spec.min_score is None else spec.min_score - SCORE_TOLERANCE
    others = own[:, None] != found.I
    kept = others & (np.cumsum(others, axis=1) < spec.options.k) & (least <= found.D)
    row, at = np.nonzero(kept)
    return row.astype(np.int64), Hits(
        found.D[row, at], found.I[row, at], found.ids[row, at], found.groups[row, at]
    )


def _is_asking(batch: pa.RecordBatch, asking: Ints) -> pa.Array:
    return pa.array(is_in(np.asarray(batch.column("vector_id"), dtype=np.int64), asking))
