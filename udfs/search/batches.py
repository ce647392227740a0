"""The functions handed to mapInArrow by searches: query vectors in, hits out; and what keeps an old index right."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.index.manifest import Manifest
from udfs.index.vectors import floats_of, is_in
from udfs.search.answers import (
    SEARCH_OUTPUT,
    QueryAnswer,
    answer_query,
    answer_rows,
    refusal,
    rows_wanted,
)
from udfs.search.hits import Hits, RankOptions, rank
from udfs.search.live import LiveSearcher
from udfs.search.opened import ShardFiles, read_gone, read_rows
from udfs.search.row_files import VECTOR_IDS, read_groups, read_vector_ids
from udfs.search.searcher import Searcher
from udfs.specs import SearchSpec
from udfs.strings import python_values

SEARCH_INPUT = Columns(
    "query_id string, k int, status string, error string, embedding array<float>"
)

_live: dict[tuple[SearchSpec, tuple[int, ...] | None], LiveSearcher] = {}


@gives(SEARCH_OUTPUT)
def search_batches(
    batches: Iterator[pa.RecordBatch], *, spec: SearchSpec
) -> Iterator[pa.RecordBatch]:
    """Search Arrow batches with the columns SEARCH_INPUT; hits in SEARCH_OUTPUT, best first.

    A query has one row per hit, rank from 1. A query with another status than "ok", with k outside 1..MAX_K, or
    that finds nothing has one row without rank, whose status and error say why. A null k is `spec.k`. The status of
    hits is "cut" where more rows reach `spec.min_score` than k, and "incomplete" where the search for rows of more
    groups was given up. Raises IndexDataError for damaged files, or an index of another model than `spec.model_id`.
    """
    for batch in batches:
        if batch.num_rows:
            live = open_live(spec)
            names = python_values(batch.column("query_id"))
            refused, found, asked = search_batch(live, batch, spec)
            answers = [
                answer_query(name, hits, k, spec)
                if hits is not None
                else QueryAnswer(name, None, *why)
                for name, why, hits, k in zip(names, refused, found, asked, strict=True)
            ]
            index_id = live.base.manifest.spec.index_id
            yield answer_rows(answers, index_id=index_id, model_id=spec.model_id)


def search_batch(
    live: LiveSearcher, batch: pa.RecordBatch, spec: SearchSpec
) -> tuple[list[tuple[str, str | None]], list[Hits | None], list[int]]:
    """For each query of a SEARCH_INPUT batch: status and error, its best rows (None: not searched), and its k."""
    asked = [spec.k if k is None else k for k in batch.column("k").to_pylist()]
    columns = (python_values(batch.column(name)) for name in ("status", "error"))
    refused = [refusal(*row) for row in zip(*columns, asked, strict=True)]
    found: list[Hits | None] = [None] * len(asked)
    wanted: dict[int, list[int]] = {}
    for number, ((status, _), k) in enumerate(zip(refused, asked, strict=True)):
        if status == "ok":
            wanted.setdefault(k, []).append(number)
    options = RankOptions(spec.nprobe, spec.k_factor, spec.max_per)
    for k, numbers in wanted.items():
        embeddings = batch.column("embedding").take(pa.array(numbers))
        xq = floats_of(embeddings, live.dim, what="query vectors")
        ranked = rank(live, xq, k=rows_wanted(k, spec), options=options)
        for number, hits in zip(numbers, ranked, strict=True):
            found[number] = hits
    return refused, found, asked


def open_live(spec: SearchSpec, *, shards: tuple[int, ...] | None = None) -> LiveSearcher:
    """The index of a search without the rows that are gone and with the fresh ones; the last one stays open.

    With `shards`, these alone are opened, and no fresh rows: they are a part of their own.
    """
    key = (spec, shards)
    if key not in _live:
        _live.clear()  # before the next one is opened: a part may fill the memory that there is
        _live[key] = _open(spec, shards)
    return _live[key]


@lru_cache(maxsize=2)
def open_index(
    root: str, *, model_id: str, cache_dir: str | None = None, manifest_sha256: str | None = None
) -> Searcher:
    """An index opened once per process; the two used last stay open. Raises IndexDataError."""
    return Searcher.open(
        root, model_id=model_id, cache_dir=cache_dir, manifest_sha256=manifest_sha256
    )


@gives(VECTOR_IDS)
def indexed_ids(
    batches: Iterator[pa.RecordBatch], *, root: str, manifest_sha256: str | None = None
) -> Iterator[pa.RecordBatch]:
    """The vector_ids that can be found in the shards whose numbers are in the first column; VECTOR_IDS batches."""
    manifest = Manifest.read(root, sha256=manifest_sha256)
    shards, gone = manifest.all_shards(root), read_gone(manifest, root, cache_dir=None)
    for batch in batches:
        for number in batch.column(0).to_pylist():
            folder, record = shards[number]
            rows = read_rows(ShardFiles(record, folder, None)).select(["vector_id"])
            for chunk in rows.to_batches(max_chunksize=1 << 20):
                found = chunk.column(0)
                if gone is not None:
                    found = found.filter(pa.array(~is_in(found.to_numpy(), gone)))
                yield VECTOR_IDS.batch(found)


def _open(spec: SearchSpec, shards: tuple[int, ...] | None) -> LiveSearcher:
    model_id, cache_dir, fresh = spec.model_id, spec.cache_dir, None
    committed = spec.manifest_sha256
    if shards is not None:
        base = Searcher.open(
            spec.root,
            model_id=model_id,
            cache_dir=cache_dir,
            shards=shards,
            manifest_sha256=committed,
        )
    else:
        base = open_index(
            spec.root, model_id=model_id, cache_dir=cache_dir, manifest_sha256=committed
        )
        if spec.fresh_root is not None:
            # A folder of this one run: not worth a place among the indexes that stay open.
            fresh = Searcher.open(spec.fresh_root, model_id=model_id, cache_dir=cache_dir)
    return LiveSearcher(
        base,
        gone=None if spec.gone is None else read_vector_ids(spec.gone),
        fresh=fresh,
        allowed=None if spec.allowed is None else read_vector_ids(spec.allowed),
        groups=None if spec.groups is None else read_groups(spec.groups),
    )
