"""The answer to one query: its best rows, at most so many of a group, down to a lowest score; and the merge of parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.index.vectors import Floats, Ints
from udfs.search.groups import NO_GROUP
from udfs.search.live import LiveSearcher
from udfs.search.searcher import SearchResult

FETCH_FACTOR = 4  # rows looked at first for each row wanted, where groups are limited
MAX_ROUNDS = 12


@dataclass(frozen=True)
class RankOptions:
    """How rows are looked for. `max_per` is the most rows of one group; None: there are no groups."""

    nprobe: int | None = None
    k_factor: int | None = None
    max_per: int | None = None


class Hits(NamedTuple):
    """Rows of one query, best first, equal scores by smaller vector_id.

    D float32 (n,), I int64 (n,) vector_ids, ids (n,) row ids, groups int32 (n,). `complete` is False where rows of
    further groups may exist but the search for them was given up.
    """

    D: Floats
    I: Ints
    ids: NDArray[np.object_]
    groups: NDArray[np.int32]
    complete: bool = True

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Hits:
        """Some of the rows."""
        return Hits(self.D[at], self.I[at], self.ids[at], self.groups[at], self.complete)


def rank(live: LiveSearcher, xq: Floats, *, k: int, options: RankOptions) -> list[Hits]:
    """The k best rows for each query of xq float32 (q, dim); fewer only where there are no more, or not `complete`.

    With `max_per`, more rows are fetched until the answer is full; then groups that are full are left out of the
    next search, so that a group of a million near copies costs one more round and not a million rows.
    """
    if options.max_per is None:
        found = live.search(xq, k=k, nprobe=options.nprobe, k_factor=options.k_factor)
        return _split(live, found)
    fetch = min(FETCH_FACTOR * k, live.rows)
    found = _fetch(live, xq, k, fetch, options)
    return [
        _fill(live, xq[q : q + 1], k=k, first=mine, options=options)
        for q, mine in enumerate(_split(live, found))
    ]


def merge_hits(parts: Sequence[Hits], k: int, *, max_per: int | None) -> Hits:
    """The k best rows of the parts' together.

    Where each part is the k best of its own rows under `max_per`, this is exact: a part leaves a row out only for
    max_per better ones of its group or k better ones in all, and those are better in the whole as well.
    """
    D = np.concatenate([part.D for part in parts])
    I = np.concatenate([part.I for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    groups = np.concatenate([part.groups for part in parts])
    together = Hits(D, I, ids, groups, all(part.complete for part in parts))
    ordered = together.take(np.lexsort((I, -D)))
    return ordered.take(_within_limit(ordered.groups, max_per)).take(slice(k))


def _fill(live: LiveSearcher, x: Floats, *, k: int, first: Hits, options: RankOptions) -> Hits:
    """The answer to one query x float32 (1, dim); `first` are its best rows without regard to groups."""
    fetch, found = min(FETCH_FACTOR * k, live.rows), first
    kept, rounds = first.take(slice(0)), 1
    while True:
        mine = found.take(_within_limit(found.groups, options.max_per))
        best = merge_hits([kept, mine], k, max_per=options.max_per)
        whole = len(found.D) < fetch or fetch == live.rows
        if whole or len(best.D) >= k:
            return best
        if rounds == MAX_ROUNDS:
            return best._replace(complete=False)
        rounds += 1
        full = mine.take(np.isin(mine.groups, _full_groups(mine.groups, options.max_per)))
        kept = merge_hits([kept, full], k, max_per=options.max_per)
        fetch = min(2 * fetch, live.rows)
        without = np.unique(kept.groups)
        (found,) = _split(live, _fetch(live, x, k, fetch, options, without=without))


def _fetch(
    live: LiveSearcher,
    xq: Floats,
    k: int,
    fetch: int,
    options: RankOptions,
    without: NDArray[np.int32] | None = None,
) -> SearchResult:
    """The `fetch` best rows, re-ranking no more than k results would, but twice what is fetched."""
    candidates = live.base.candidates(k, options.k_factor)
    k_factor = max(2, math.ceil(candidates / max(fetch, 1)))
    return live.search(
        xq, k=max(fetch, 1), nprobe=options.nprobe, k_factor=k_factor, without=without
    )


def _split(live: LiveSearcher, found: SearchResult) -> list[Hits]:
    groups = np.full(found.I.shape, NO_GROUP, np.int32)
    if live.groups is not None:
        groups = live.groups.of(found.I)
    return [Hits(*row) for row in zip(found.D, found.I, found.ids, groups, strict=True)]


def _within_limit(groups: NDArray[np.int32], max_per: int | None) -> NDArray[np.intp]:
    """Positions of rows, in order, that are among the first max_per of their group."""
    if max_per is None:
        return np.arange(len(groups))
    seen: dict[int, int] = {}
    kept = []
    for at, group in enumerate(groups.tolist()):
        seen[group] = seen.get(group, 0) + 1
        if group == NO_GROUP or seen[group] <= max_per:
            kept.append(at)
    return np.array(kept, dtype=np.intp)


def _full_groups(groups: NDArray[np.int32], max_per: int | None) -> NDArray[np.int32]:
    numbers, counts = np.unique(groups[groups != NO_GROUP], return_counts=True)
    full: NDArray[np.int32] = numbers[counts >= (max_per or 1)]
    return full
