"""Ground truth: exact nearest rows of a query set by blocked matrix products in tasks, merged by one of them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from udfs import storage
from udfs.columns import Columns, gives
from udfs.errors import IndexDataError
from udfs.index.manifest import publish_bytes
from udfs.index.vectors import Floats, Ints, floats_of
from udfs.recall.query_set import read_query_set
from udfs.search.exact import MISSING, exact_topk, merge_topk, top_order

NEAREST_INPUT = Columns("vector_id bigint, embedding array<float>")
NEAREST_OUTPUT = Columns("query int, vector_ids array<bigint>, scores array<float>")
TRUTH_OUTPUT = Columns("queries bigint")
TIES = 32  # rows kept beyond k, so that rows which tie with the k-th are known
_BLOCK_SCORES = 4_000_000  # (query, row) pairs scored at a time
_MAX_BYTES = 8 << 30


@dataclass(frozen=True)
class TruthKey:
    """Everything that exact results depend on; nothing else is in the name they are kept under.

    `table` is the identity Delta gave the table when it was made: a version number says nothing about another table.
    """

    table: str
    vectors_version: int
    model_id: str
    query_set: str
    k: int
    metric: Literal["ip"] = "ip"

    def name(self) -> str:
        """32 hex digits; other inputs, another name."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Truth:
    """D float32 (q, m) inner products, best first, and I int64 (q, m) vector_ids, -1 where there are no more rows."""

    D: Floats
    I: Ints


@dataclass(frozen=True)
class TruthSpec:
    """Exact search for the query set in the file `queries`, kept in `folder` under the name of `key`."""

    key: TruthKey
    queries: str
    folder: str
    dim: int

    @property
    def depth(self) -> int:
        """Rows kept for each query."""
        return self.key.k + TIES


@gives(NEAREST_OUTPUT)
def nearest_batches(
    batches: Iterator[pa.RecordBatch], *, spec: TruthSpec
) -> Iterator[pa.RecordBatch]:
    """Nearest rows of every query among the NEAREST_INPUT rows of one partition; NEAREST_OUTPUT, a row a query.

    The query's own row is left out. Memory is the queries, a block of rows and `spec.depth` results a query.
    """
    queries = read_query_set(spec.queries)
    rows = max(1, _BLOCK_SCORES // len(queries.xq))
    D, I = exact_topk(queries.xq, _blocks(batches, spec.dim, rows), spec.depth + 1)
    if (I == MISSING).all():
        return
    I = np.where((queries.own[:, None] == I), MISSING, I)
    order = top_order(D, I, spec.depth, keep_max=True)
    D, I = np.take_along_axis(D, order, axis=1), np.take_along_axis(I, order, axis=1)
    scores = np.where(I == MISSING, -np.inf, D).astype(np.float32)
    yield NEAREST_OUTPUT.batch(
        np.arange(len(D)), _lists(I, pa.int64()), _lists(scores, pa.float32())
    )


@gives(TRUTH_OUTPUT)
def merge_nearest(
    batches: Iterator[pa.RecordBatch], *, spec: TruthSpec
) -> Iterator[pa.RecordBatch]:
    """Merge NEAREST_OUTPUT rows of all partitions (in one task) and write them; one TRUTH_OUTPUT row.

    Memory is `spec.depth` results a query, however many partitions there were.
    """
    queries, depth = len(read_query_set(spec.queries).xq), spec.depth
    D = np.full((queries, depth), -np.inf, np.float32)
    I = np.full((queries, depth), MISSING, np.int64)
    for batch in batches:
        numbers = batch.column("query").to_numpy()
        new_D = batch.column("scores").flatten().to_numpy().reshape(-1, depth)
        new_I = batch.column("vector_ids").flatten().to_numpy().reshape(-1, depth)
        for at in _rounds(numbers):
            q = numbers[at]
            D[q], I[q] = merge_topk([D[q], new_D[at]], [I[q], new_I[at]], depth, keep_max=True)
    publish_bytes(_encode(Truth(D, I), spec.key), spec.folder, truth_name(spec.key))
    yield TRUTH_OUTPUT.batch([queries])


def truth_name(key: TruthKey) -> str:
    """File name of kept results."""
    return f"{key.name()}.truth.arrow"


def read_truth(folder: str, key: TruthKey) -> Truth:
    """Exact results kept for `key`. Raises FileNotFoundError, or IndexDataError for a file of other results."""
    path = storage.join(folder, truth_name(key))
    with pa.ipc.open_file(io.BytesIO(storage.read_bytes(path, max_bytes=_MAX_BYTES))) as reader:
        table = reader.read_all().combine_chunks()
    if (table.schema.metadata or {}).get(b"key") != _metadata(key)["key"].encode():
        raise IndexDataError(f"{path} holds other results than its name says; remove it")
    D, I = (table[name].combine_chunks() for name in ("scores", "vector_ids"))
    width = D.type.list_size
    return Truth(
        D.flatten().to_numpy().reshape(-1, width), I.flatten().to_numpy().reshape(-1, width)
    )


def _blocks(
    batches: Iterator[pa.RecordBatch], dim: int, rows: int
) -> Iterator[tuple[Ints, Floats]]:
    for batch in batches:
        ids = batch.column("vector_id").to_numpy(zero_copy_only=False).astype(np.int64)
        xb = floats_of(batch.column("embedding"), dim, what="indexed vectors")
        for start in range(0, len(ids), rows):
            yield ids[start : start + rows], xb[start : start + rows]


def _rounds(numbers: Ints) -> Iterator[Ints]:
    """Positions in rounds, each number at most once a round."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    first = np.searchsorted(ordered, ordered, side="left")
    occurrence = np.arange(len(ordered)) - first
    for turn in range(int(occurrence.max(initial=-1)) + 1):
        yield order[occurrence == turn]


def _lists(x: Floats | Ints, kind: pa.DataType) -> pa.ListArray:
    offsets = np.arange(0, x.size + 1, max(x.shape[1], 1), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(x.reshape(-1), kind))


def _encode(truth: Truth, key: TruthKey) -> bytes:
    columns = {
        "vector_ids": pa.FixedSizeListArray.from_arrays(pa.array(truth.I.reshape(-1)), truth.I.shape[1]),
        "scores": pa.FixedSizeListArray.from_arrays(pa.array(truth.D.reshape(-1)), truth.D.shape[1]),
    }  # fmt: skip
    table, out = pa.table(columns).replace_schema_metadata(_metadata(key)), io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _metadata(key: TruthKey) -> dict[str, str]:
    return {"key": json.dumps(asdict(key), sort_keys=True)}
