"""The functions handed to mapInArrow by searches: query vectors in, hits out; and what keeps an old index right."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from udfs import storage
from udfs.ann.live import LiveSearcher
from udfs.ann.manifest import Manifest
from udfs.ann.opened import ShardFiles, read_rows
from udfs.ann.search import Searcher
from udfs.ann.vectors import floats_of
from udfs.specs import SearchSpec

MAX_K = 1000
SEARCH_INPUT = "query_id string, k int, status string, error string, embedding array<float>"
SEARCH_OUTPUT = (
    "query_id string, rank int, id string, vector_id bigint, score double, index_id string, "
    "model_id string, status string, error string"
)
SEARCH_OUTPUT_ARROW = pa.schema(
    [
        ("query_id", pa.string()),
        ("rank", pa.int32()),
        ("id", pa.string()),
        ("vector_id", pa.int64()),
        ("score", pa.float64()),
        ("index_id", pa.string()),
        ("model_id", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
VECTOR_IDS = "vector_id bigint"
WRITTEN_IDS = "rows bigint"
_ID_DTYPE = np.dtype("<i8")
_MAX_ID_BYTES = 8 << 30


def search_batches(
    batches: Iterator[pa.RecordBatch], *, spec: SearchSpec
) -> Iterator[pa.RecordBatch]:
    """Search Arrow batches with the columns SEARCH_INPUT; hits in SEARCH_OUTPUT, best first.

    A query has one row per hit, rank from 1. A query with another status than "ok", with k outside 1..MAX_K, or in
    an empty table has one row without rank, whose status and error say why. A null k is `spec.k`.
    Raises IndexDataError for damaged files, or an index of another model than `spec.model_id`.
    """
    searcher: LiveSearcher | None = None
    for batch in batches:
        if batch.num_rows:
            searcher = searcher or open_live(spec)
            yield _search_batch(searcher, batch, spec)


def open_live(spec: SearchSpec) -> LiveSearcher:
    """The index of a search, opened once per process, without the rows that are gone and with the fresh ones."""
    base = open_index(spec.root, model_id=spec.model_id, cache_dir=spec.cache_dir)
    fresh = None
    if spec.fresh_root is not None:
        # A folder of this one run: not worth a place among the indexes that stay open.
        fresh = Searcher.open(spec.fresh_root, model_id=spec.model_id, cache_dir=spec.cache_dir)
    gone = None
    if spec.gone is not None:
        data = storage.read_bytes(spec.gone, max_bytes=_MAX_ID_BYTES)
        gone = np.frombuffer(data, _ID_DTYPE).astype(np.int64)
    return LiveSearcher(base, gone=gone, fresh=fresh)


@lru_cache(maxsize=2)
def open_index(root: str, *, model_id: str, cache_dir: str | None = None) -> Searcher:
    """An index opened once per process; the two used last stay open. Raises IndexDataError."""
    return Searcher.open(root, model_id=model_id, cache_dir=cache_dir)


def indexed_ids(batches: Iterator[pa.RecordBatch], *, root: str) -> Iterator[pa.RecordBatch]:
    """The vector_ids of the shards whose numbers are in the first column; VECTOR_IDS batches."""
    manifest = Manifest.read(root)
    for batch in batches:
        for number in batch.column(0).to_pylist():
            record = manifest.shards[number]
            rows = read_rows(ShardFiles(record, root, None))
            for chunk in rows.select(["vector_id"]).to_batches(max_chunksize=1 << 20):
                yield pa.RecordBatch.from_arrays([chunk.column(0)], ["vector_id"])


def write_vector_ids(batches: Iterator[pa.RecordBatch], *, path: str) -> Iterator[pa.RecordBatch]:
    """Write VECTOR_IDS batches to one file that `SearchSpec.gone` can name; one row says how many there were."""
    columns = [np.asarray(batch.column(0), dtype=_ID_DTYPE) for batch in batches]
    found = np.sort(np.concatenate([np.empty(0, _ID_DTYPE), *columns]))
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "vector_ids"
        local.write_bytes(found.tobytes())
        storage.publish(local, path)
    yield pa.RecordBatch.from_arrays([pa.array([len(found)], pa.int64())], ["rows"])


def _search_batch(
    searcher: LiveSearcher, batch: pa.RecordBatch, spec: SearchSpec
) -> pa.RecordBatch:
    rows: list[dict[str, object]] = []
    wanted: dict[int, list[int]] = {}
    names = batch.column("query_id").to_pylist()
    same = {"index_id": searcher.index_id, "model_id": spec.model_id}
    columns = (batch.column(name).to_pylist() for name in ("k", "status", "error"))
    for number, (k, status, error) in enumerate(zip(*columns, strict=True)):
        k = spec.k if k is None else k
        if status == "ok" and not 1 <= k <= MAX_K:
            status, error = "k_out_of_range", f"k is {k}; a query may ask for 1 to {MAX_K} rows"
        elif status == "ok" and not searcher.rows:
            status, error = "no_rows", "the released table has no vectors"
        if status == "ok":
            wanted.setdefault(k, []).append(number)
        else:
            rows.append({"query_id": names[number], "status": status, "error": error, **same})
    for k, numbers in wanted.items():
        embeddings = batch.column("embedding").take(pa.array(numbers))
        xq = floats_of(embeddings, searcher.dim, what="query vectors")
        found = searcher.search(xq, k=k, nprobe=spec.nprobe, k_factor=spec.k_factor)
        for at, number in enumerate(numbers):
            hits = zip(found.ids[at], found.I[at].tolist(), found.D[at].tolist(), strict=True)
            for rank, (row_id, vector_id, score) in enumerate(hits, start=1):
                hit = {"rank": rank, "id": row_id, "vector_id": vector_id, "score": score}
                rows.append({"query_id": names[number], **hit, **same, "status": "ok"})
    return pa.RecordBatch.from_pylist(rows, schema=SEARCH_OUTPUT_ARROW)
