"""The functions handed to mapInArrow by searches: query vectors in, hits out; and what keeps an old index right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.index.manifest import Manifest
from udfs.index.vectors import floats_of, is_in
from udfs.search.answers import (
    SEARCH_OUTPUT,
    QueryAnswer,
    answer_query,
    answer_rows,
    refuse_k,
    rows_wanted,
)
from udfs.search.index import Index
from udfs.search.limited import search_limited
from udfs.search.opened import ShardFiles, read_gone, read_rows
from udfs.search.row_files import VECTOR_IDS, read_groups, read_vector_ids
from udfs.specs import SearchSpec
from udfs.strings import python_values

SEARCH_INPUT = Columns(
    "query_id string, k int, status string, error string, embedding array<float>"
)

_opened: dict[tuple[SearchSpec, tuple[int, ...] | None], Index] = {}


@gives(SEARCH_OUTPUT)
def search_batches(
    batches: Iterator[pa.RecordBatch], *, spec: SearchSpec
) -> Iterator[pa.RecordBatch]:
    """Search Arrow batches with the columns SEARCH_INPUT; hits in SEARCH_OUTPUT, best first.

    A query has one row per hit, rank from 1. A query with another status than "ok", with k outside 1..MAX_K, or
    that finds nothing has one row without rank, whose status and error say why. A null k is that of `spec.options`.
    The status of hits is "cut" where more rows reach `spec.min_score` than k, and "incomplete" where the search for
    rows of more groups was given up. Raises IndexDataError for damaged files, or an index of another model than
    `spec.model_id`.
    """
    for batch in batches:
        if batch.num_rows:
            index = open_search(spec)
            answers = [answer_query(found, spec) for found in search_batch(index, batch, spec)]
            index_id = index.manifest.spec.index_id
            yield answer_rows(answers, index_id=index_id, model_id=spec.model_id)


def search_batch(index: Index, batch: pa.RecordBatch, spec: SearchSpec) -> list[QueryAnswer]:
    """The `rows_wanted` best rows for each query of a SEARCH_INPUT batch; none where its status is not "ok"."""
    options, answers = spec.options, read_queries(batch, spec)
    wanted: dict[int, list[int]] = {}
    for number, asked in enumerate(answers):
        if asked.status == "ok":
            wanted.setdefault(asked.k, []).append(number)
    for k, numbers in wanted.items():
        embeddings = batch.column("embedding").take(pa.array(numbers))
        xq = floats_of(embeddings, index.manifest.spec.dim, what="query vectors")
        mine = replace(options, k=rows_wanted(k, spec))
        found = search_limited(index, xq, mine, max_per=spec.max_per)
        for number, hits in zip(numbers, found, strict=True):
            answers[number] = answers[number]._replace(hits=hits)
    return answers


def read_queries(batch: pa.RecordBatch, spec: SearchSpec) -> list[QueryAnswer]:
    """The queries of a SEARCH_INPUT batch before they are searched, those with a wrong k refused."""
    ks = [spec.options.k if k is None else k for k in batch.column("k").to_pylist()]
    columns = (python_values(batch.column(name)) for name in ("query_id", "status", "error"))
    return [
        refuse_k(QueryAnswer(query_id, k, status, error))
        for query_id, status, error, k in zip(*columns, ks, strict=True)
    ]


def open_search(spec: SearchSpec, *, shards: tuple[int, ...] | None = None) -> Index:
    """The index of a search without the rows that are gone and with the fresh ones; the last one stays open.

    With `shards`, these alone are opened, and no fresh rows: they are a part of their own.
    """
    if (spec, shards) not in _opened:
        _opened.clear()  # before the next one is opened: a part may fill the memory that there is
        open_base = open_index if shards is None else partial(Index.open, shards=shards)
        base = open_base(
            spec.root,
            model_id=spec.model_id,
            cache_dir=spec.cache_dir,
            manifest_sha256=spec.manifest_sha256,
        )
        fresh = open_fresh(spec) if shards is None else None
        _opened[spec, shards] = restrict_index(base, spec, fresh=fresh)
    return _opened[spec, shards]


def open_fresh(spec: SearchSpec) -> Index | None:
    """The rows that are new since the index was built, if any; in a folder of one run, which is opened each time."""
    if spec.fresh_root is None:
        return None
    return Index.open(spec.fresh_root, model_id=spec.model_id, cache_dir=spec.cache_dir)


def restrict_index(base: Index, spec: SearchSpec, *, fresh: Index | None) -> Index:
    """An opened index, with its fresh rows, to what the files of a search say that may be found."""
    return base.restrict(
        gone=None if spec.gone is None else read_vector_ids(spec.gone),
        allowed=None if spec.allowed is None else read_vector_ids(spec.allowed),
        groups=None if spec.groups is None else read_groups(spec.groups),
        fresh=fresh,
    )


@lru_cache(maxsize=2)
def open_index(
    root: str, *, model_id: str, cache_dir: str | None = None, manifest_sha256: str | None = None
) -> Index:
    """An index opened once per process; the two used last stay open. Raises IndexDataError."""
    return Index.open(root, model_id=model_id, cache_dir=cache_dir, manifest_sha256=manifest_sha256)


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
