"""Search of an index too large for one executor: each task searches a part of the shards, others merge what they found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.index.manifest import Manifest
from udfs.search.answers import (
    SEARCH_OUTPUT,
    QueryAnswer,
    answer_query,
    answer_rows,
    rows_wanted,
)
from udfs.search.batches import SEARCH_INPUT, open_search, search_batch
from udfs.search.hits import Hits, merge_hits
from udfs.specs import SearchSpec
from udfs.strings import arrow_strings, python_values

# `shards` names the part: the numbers of its shards, or null for the rows that are new since the index was built.
PART_INPUT = Columns(f"{SEARCH_INPUT.ddl}, part int, shards array<int>")
_HITS = "array<struct<vector_id: bigint, score: float, id: string, code: int>>"
PART_OUTPUT = Columns(
    f"query_id string, k int, status string, error string, complete boolean, hits {_HITS}"
)
# PART_OUTPUT grouped by query: k, status and error are the same in all parts.
MERGE_INPUT = Columns(
    f"query_id string, k int, status string, error string, complete boolean, parts array<{_HITS}>"
)
_HIT = PART_OUTPUT.arrow.field("hits").type.value_type


@gives(PART_OUTPUT)
def search_part_batches(
    batches: Iterator[pa.RecordBatch], *, spec: SearchSpec
) -> Iterator[pa.RecordBatch]:
    """Search PART_INPUT batches, queries of one part after another; one PART_OUTPUT row for each query and part.

    A task has the shards of one part open at a time. Raises IndexDataError as `search_batches` does.
    """
    for batch in batches:
        for run in _runs(batch):
            shards = run.column("shards")[0].as_py()
            if shards is None:
                index = open_search(fresh_part(spec))
            else:
                index = open_search(spec, shards=tuple(shards))
            found = search_batch(index, run, spec)
            yield PART_OUTPUT.batch(
                run.column("query_id"),
                [query.k for query in found],
                [query.status for query in found],
                arrow_strings([query.error for query in found]),
                [query.hits.complete for query in found],
                _hit_lists([query.hits for query in found]),
            )


@gives(SEARCH_OUTPUT)
def merge_batches(
    batches: Iterator[pa.RecordBatch], *, spec: SearchSpec
) -> Iterator[pa.RecordBatch]:
    """The answers of queries from those of their parts (MERGE_INPUT), as `search_batches` gives them."""
    index_id = Manifest.read(spec.root, sha256=spec.manifest_sha256).spec.index_id
    names = ("query_id", "k", "status", "error", "complete")
    for batch in batches:
        answers = []
        columns = (python_values(batch.column(name)) for name in names)
        for row, (query_id, k, status, error, complete) in enumerate(zip(*columns, strict=True)):
            hits = _collect_hits(batch.column("parts")[row].values.flatten(), complete=complete)
            best = merge_hits([hits], rows_wanted(k, spec), max_per=spec.max_per)
            answers.append(answer_query(QueryAnswer(query_id, k, status, error, best), spec))
        if answers:
            yield answer_rows(answers, index_id=index_id, model_id=spec.model_id)


def fresh_part(spec: SearchSpec) -> SearchSpec:
    """The search of the rows that are new since the index was built, alone."""
    if spec.fresh_root is None:
        raise ValueError("a part without shards needs the rows that are new: fresh_root is not set")
    return replace(spec, root=spec.fresh_root, manifest_sha256=None, fresh_root=None, gone=None)


def _runs(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Slices of a batch with the same part."""
    parts = batch.column("part").to_numpy(zero_copy_only=False)
    starts = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist()] if len(parts) else []
    for start, end in zip(starts, [*starts[1:], len(parts)], strict=True):
        yield batch.slice(start, end - start)


def _hit_lists(hits: list[Hits]) -> pa.ListArray:
    offsets = np.cumsum([0, *(len(h.D) for h in hits)]).astype(np.int32)
    columns = [
        pa.array(np.concatenate([h.I for h in hits])),
        pa.array(np.concatenate([h.D for h in hits])),
        arrow_strings(np.concatenate([h.ids for h in hits]).tolist()),
        pa.array(np.concatenate([h.groups for h in hits])),
    ]
    values = pa.StructArray.from_arrays(columns, fields=list(_HIT))
    return pa.ListArray.from_arrays(offsets, values)


def _collect_hits(hits: pa.StructArray, *, complete: bool) -> Hits:
    """All hits of all parts, unordered."""
    vector_ids, scores, groups = (
        hits.field(name).to_numpy(zero_copy_only=False) for name in ("vector_id", "score", "code")
    )
    ids = np.array(python_values(hits.field("id")), dtype=object)
    return Hits(scores, vector_ids, ids, groups, complete)
