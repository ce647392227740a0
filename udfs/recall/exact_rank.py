"""The function handed to a cogrouped applyInArrow: queries and a block of the vectors they search in, the best of it out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.index.vectors import Floats, Ints, floats_of
from udfs.search.exact import MISSING, exact_topk

RANK_OUTPUT = Columns("task string, query_id string, vector_id bigint, score double")
_QUERIES = 1024  # of one matrix product
_ROWS = 16_384


@dataclass(frozen=True)
class RankSpec:
    """`k` hits of each query; vectors have `dim` values."""

    k: int
    dim: int


@gives(RANK_OUTPUT)
def rank_block(queries: pa.Table, vectors: pa.Table, *, spec: RankSpec) -> pa.Table:
    """The spec.k best of `vectors` (vector_id, embedding) for each of `queries` (task, query_id, embedding).

    By inner product, exactly; RANK_OUTPUT rows, best first, equal scores by smaller vector_id. Memory is both tables
    and one product of 1,024 × 16,384 scores.
    """
    found = []
    for start in range(0, queries.num_rows if vectors.num_rows else 0, _QUERIES):
        part = queries.slice(start, _QUERIES)
        xq = floats_of(_column(part, "embedding"), spec.dim, what="query vectors")
        D, I = exact_topk(xq, _blocks(vectors, spec.dim), spec.k)
        rows, columns = np.nonzero(I != MISSING)
        taken = pa.array(rows)
        values = [part["task"].take(taken), part["query_id"].take(taken)]
        values += [pa.array(I[rows, columns]), pa.array(D[rows, columns].astype(np.float64))]
        found.append(pa.Table.from_arrays(values, schema=RANK_OUTPUT.arrow))
    return pa.concat_tables(found) if found else RANK_OUTPUT.arrow.empty_table()


def _blocks(vectors: pa.Table, dim: int) -> Iterator[tuple[Ints, Floats]]:
    for start in range(0, vectors.num_rows, _ROWS):
        part = vectors.slice(start, _ROWS)
        ids = np.asarray(_column(part, "vector_id"), dtype=np.int64)
        yield ids, floats_of(_column(part, "embedding"), dim, what="document vectors")


def _column(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()
