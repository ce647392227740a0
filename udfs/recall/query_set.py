"""A set of query vectors in one file that every task can read, named by its content."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from udfs import storage
from udfs.columns import Columns, gives
from udfs.errors import IndexDataError
from udfs.index.manifest import publish_bytes
from udfs.index.vectors import Floats, Ints, floats_of, unit_vectors
from udfs.search.exact import MISSING
from udfs.strings import arrow_strings, python_values

QUERY_SET_INPUT = Columns("query_id string, own bigint, embedding array<float>")
QUERY_SET_OUTPUT = Columns("query_set string, query_ids array<string>")
_MAX_BYTES = 8 << 30


@dataclass(frozen=True)
class QuerySet:
    """query_ids (q,) ascending, xq float32 (q, dim) unit vectors, own int64 (q,).

    `own` is the vector_id a query was taken from: no result of its own search. -1: it was taken from none.
    """

    query_ids: tuple[str, ...]
    own: Ints
    xq: Floats


@dataclass(frozen=True)
class QuerySetSpec:
    """Where a query set is to be written; `dim` is the model's width."""

    folder: str
    dim: int


def query_set_path(folder: str, query_set: str) -> str:
    """The file of the query set of that name."""
    return storage.join(folder, f"{query_set}.queries.arrow")


@gives(QUERY_SET_OUTPUT)
def write_query_set(
    batches: Iterator[pa.RecordBatch], *, spec: QuerySetSpec
) -> Iterator[pa.RecordBatch]:
    """Write QUERY_SET_INPUT rows (one partition) to a file named by the sha-256 of what is in it.

    Yields one QUERY_SET_OUTPUT row: that name, and the query_ids in the order of the file. Memory is the set.
    Raises IndexDataError for vectors of another width or norm, or no query at all.
    """
    found = [batch for batch in batches if batch.num_rows]
    if not found:
        raise IndexDataError("there is no query to measure with; give more rows")
    table = pa.Table.from_batches(found).sort_by("query_id")
    rows = table.combine_chunks().to_batches()[0]
    what = "query vectors"
    xq = unit_vectors(floats_of(rows.column("embedding"), spec.dim, what=what), what=what)
    own = rows.column("own").fill_null(MISSING).to_numpy(zero_copy_only=False)
    queries = QuerySet(tuple(python_values(rows.column("query_id"))), own.astype(np.int64), xq)
    name = _digest(queries)
    publish_bytes(_encode(queries), spec.folder, f"{name}.queries.arrow")
    ends = pa.array([0, len(queries.query_ids)], pa.int32())
    names = pa.ListArray.from_arrays(ends, arrow_strings(queries.query_ids))
    yield QUERY_SET_OUTPUT.batch([name], names)


def read_query_set(path: str) -> QuerySet:
    """The query set in a file. Raises IndexDataError where it is not what its name says."""
    with pa.ipc.open_file(io.BytesIO(storage.read_bytes(path, max_bytes=_MAX_BYTES))) as reader:
        table = reader.read_all().combine_chunks()
    embedding = table["embedding"].combine_chunks()
    xq = embedding.flatten().to_numpy().reshape(-1, embedding.type.list_size)
    queries = QuerySet(
        tuple(python_values(table["query_id"])), table["own"].to_numpy().astype(np.int64), xq
    )
    if not path.endswith(f"{_digest(queries)}.queries.arrow"):
        raise IndexDataError(f"{path} has another content than its name says; remove it")
    return queries


def _encode(queries: QuerySet) -> bytes:
    flat = pa.array(queries.xq.reshape(-1))
    columns = {
        "query_id": arrow_strings(queries.query_ids),
        "own": pa.array(queries.own),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, queries.xq.shape[1]),
    }
    table, out = pa.table(columns), io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _digest(queries: QuerySet) -> str:
    digest = hashlib.sha256(json.dumps(queries.query_ids).encode())
    digest.update(queries.own.astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(queries.xq, "<f4").tobytes())
    return digest.hexdigest()[:32]
