"""Search for at most so many rows of a group: rounds of more rows, without the groups that are full."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from udfs.index.vectors import Floats
from udfs.search.groups import NO_GROUP
from udfs.search.hits import NOTHING, Hits, limit_groups, merge_hits
from udfs.search.index import Index
from udfs.specs import SearchOptions

FETCH_FACTOR = 4  # rows looked at first for each row wanted
MAX_ROUNDS = 12


def search_limited(
    index: Index, xq: Floats, options: SearchOptions, *, max_per: int | None
) -> list[Hits]:
    """The k best rows for each query of xq float32 (q, dim), at most max_per of one group; fewer than k only where there
    are no more, or not `complete`.

    More rows are fetched until the answer is full; then groups that are full are left out of the next search, so that a
    group of a million near copies costs one more round and not a million rows. Without `max_per` there is no limit.
    """
    if max_per is None:
        return index.search(xq, options).split()
    fetch = min(FETCH_FACTOR * options.k, index.rows)
    found = index.search(xq, fetch_options(index, options, fetch))
    return [
        _fill(index, xq[q : q + 1], options, first=mine, max_per=max_per)
        for q, mine in enumerate(found.split())
    ]


def _fill(index: Index, x: Floats, options: SearchOptions, *, first: Hits, max_per: int) -> Hits:
    """The answer to one query x float32 (1, dim); `first` are its best rows without regard to groups."""
    k, rows = options.k, index.rows
    fetch, found = min(FETCH_FACTOR * k, rows), first
    kept, rounds = NOTHING, 1
    while True:
        mine = found.take(limit_groups(found.groups, max_per))
        best = merge_hits([kept, mine], k, max_per=max_per)
        whole = len(found.D) < fetch or fetch == rows
        if whole or len(best.D) >= k:
            return best
        if rounds == MAX_ROUNDS:
            return best._replace(complete=False)
        rounds += 1
        full = mine.take(np.isin(mine.groups, _full_groups(mine.groups, max_per)))
        kept = merge_hits([kept, full], k, max_per=max_per)
        fetch = min(2 * fetch, rows)
        without = np.unique(kept.groups)
        rest = index.without(without) if without.size else index
        (found,) = rest.search(x, fetch_options(index, options, fetch)).split()


def fetch_options(index: Index, options: SearchOptions, fetch: int) -> SearchOptions:
    """To find the `fetch` best rows, re-ranking no more than k results would, but twice what is fetched."""
    fetch = max(fetch, 1)
    k_factor = max(2, math.ceil(index.count_candidates(options) / fetch))
    return replace(options, k=fetch, k_factor=k_factor)


def _full_groups(groups: NDArray[np.int32], max_per: int) -> NDArray[np.int32]:
    numbers, counts = np.unique(groups[groups != NO_GROUP], return_counts=True)
    full: NDArray[np.int32] = numbers[counts >= max_per]
    return full
