"""The function handed to mapInArrow by find-duplicates: stored vectors in, each row's nearest other rows out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udfs.columns import Columns, gives
from udfs.index.vectors import SCORE_TOLERANCE, Floats, Ints, floats_of, is_in
from udfs.search.batches import open_search
from udfs.search.groups import NO_GROUP
from udfs.search.hits import Hits
from udfs.search.index import Index
from udfs.search.limited import FETCH_FACTOR, fetch_options
from udfs.search.row_files import read_vector_ids
from udfs.specs import SearchSpec
from udfs.strings import arrow_strings

NEIGHBOURS_INPUT = Columns("vector_id bigint, id string, embedding array<float>")
NEIGHBOURS = Columns("id string, neighbour string, vector_id bigint, score double")

# Which rows are a row's neighbours: all, those of its own group, or those that are not of it.
Pairing = Literal["all", "within", "across"]


@gives(NEIGHBOURS)
def neighbour_batches(
    batches: Iterator[pa.RecordBatch],
    *,
    spec: SearchSpec,
    shards: tuple[int, ...] | None = None,
    pairing: Pairing = "all",
) -> Iterator[pa.RecordBatch]:
    """Search the index for the rows of NEIGHBOURS_INPUT batches; one NEIGHBOURS row for each near other row.

    `spec.options.k` is one more than the neighbours of a row: the row is its own nearest. Those below `spec.min_score`
    are left out. With `spec.allowed` only these rows ask, too. With `shards` these alone are searched, as a part of
    the index. With another pairing than "all", groups are those of the file `spec.groups`. `vector_id` is the
    neighbour's. Raises IndexDataError as `search_batches` does.
    """
    asking = None if spec.allowed is None else read_vector_ids(spec.allowed)
    for batch in batches:
        rows = batch if asking is None else batch.filter(_is_asking(batch, asking))
        if not rows.num_rows:
            continue
        index = open_search(spec, shards=shards)
        xq = floats_of(rows.column("embedding"), index.manifest.spec.dim, what="stored vectors")
        own = np.asarray(rows.column("vector_id"), dtype=np.int64)
        row, hits = near_rows(index, own, xq, spec, pairing=pairing)
        yield NEIGHBOURS.batch(
            rows.column("id").take(pa.array(row)),
            arrow_strings(hits.ids.tolist()),
            hits.I,
            hits.D.astype(np.float64),
        )


def near_rows(
    index: Index, own: Ints, xq: Floats, spec: SearchSpec, *, pairing: Pairing
) -> tuple[Ints, Hits]:
    """The neighbours of rows with vector_ids `own` int64 (q,) and vectors xq float32 (q, dim), as `near_others` gives them.

    "within": the k best of the row's group; a row without a group has none. "across": the k best that are not of its
    group; one without a group stands for itself. A few times k rows are looked at first. A row for which these hold
    fewer than k that count, though the last still scores `spec.min_score`, is searched for again among the rows that
    count alone: there may be any number of near rows that do not.
    """
    options = spec.options
    if pairing == "all":
        return near_others(own, index.search(xq, options), spec)
    if index.groups is None:
        raise ValueError(f"neighbours {pairing} groups were asked of a search that knows none")
    groups = index.groups.of(own)
    found = index.search(xq, fetch_options(index, options, FETCH_FACTOR * options.k))
    same = (groups[:, None] == found.groups) & (groups[:, None] != NO_GROUP)
    allowed = same if pairing == "within" else ~same
    row, hits = near_others(own, found, spec, allowed=allowed)
    lacking = np.bincount(row, minlength=len(own)) < options.k - 1
    if not found.D.shape[1] or found.D.shape[1] == index.rows:
        lacking[:] = False
    else:
        lacking &= (groups != NO_GROUP) & (found.D[:, -1] >= _least(spec))
    parts = [(row[~lacking[row]], hits.take(~lacking[row]))]
    for group in np.unique(groups[lacking]):
        mine = np.flatnonzero(lacking & (groups == group))
        chosen = index.only if pairing == "within" else index.without
        again = chosen(np.array([group], np.int32)).search(xq[mine], options)
        row, hits = near_others(own[mine], again, spec)
        parts.append((mine[row], hits))
    return np.concatenate([row for row, _ in parts]), Hits(
        np.concatenate([hits.D for _, hits in parts]),
        np.concatenate([hits.I for _, hits in parts]),
        np.concatenate([hits.ids for _, hits in parts]),
        np.concatenate([hits.groups for _, hits in parts]),
    )


def near_others(
    own: Ints, found: Hits, spec: SearchSpec, *, allowed: NDArray[np.bool_] | None = None
) -> tuple[Ints, Hits]:
    """What is left of hits (q, n) of the rows with vector_ids `own` int64 (q,): the number of each one's row, and the hits.

    A row itself is no neighbour, nor is what is not `allowed` (q, n). Where k others score as much, it may not be among
    its own hits: then the last goes.
    """
    others = own[:, None] != found.I
    if allowed is not None:
        others &= allowed
    kept = others & (np.cumsum(others, axis=1) < spec.options.k) & (_least(spec) <= found.D)
    row, at = np.nonzero(kept)
    return row.astype(np.int64), Hits(
        found.D[row, at], found.I[row, at], found.ids[row, at], found.groups[row, at]
    )


def _least(spec: SearchSpec) -> float:
    return -np.inf if spec.min_score is None else spec.min_score - SCORE_TOLERANCE


def _is_asking(batch: pa.RecordBatch, asking: Ints) -> pa.Array:
    return pa.array(is_in(np.asarray(batch.column("vector_id"), dtype=np.int64), asking))
