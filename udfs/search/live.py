"""Search of an index that is older than its table: rows gone since are left out, rows new since are searched exactly."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from udfs.index.vectors import Floats, Ints
from udfs.search.exact import top_order
from udfs.search.groups import Groups
from udfs.search.searcher import Searcher, SearchResult
from udfs.search.within import RowSet


class _Part:
    """One index, and which of its rows may be found."""

    def __init__(self, searcher: Searcher, within: RowSet | None, groups: Groups | None) -> None:
        self.searcher, self.within, self._groups = searcher, within, groups

    @property
    def rows(self) -> int:
        return self.searcher.rows if self.within is None else self.within.rows

    def less(self, groups: NDArray[np.int32]) -> RowSet:
        """The rows that may be found, without those of some groups."""
        if self._groups is None:
            raise ValueError("groups were named in a search that knows none")
        masks = self._groups.members(self._codes, groups)
        return (
            RowSet.of([~mask for mask in masks]) if self.within is None else self.within.less(masks)
        )

    @cached_property
    def _codes(self) -> list[NDArray[np.int32]]:
        return self._groups.of_shards(self.searcher.shards) if self._groups else []


class LiveSearcher:
    """An opened index without the vector_ids that are `gone`, and an index of `fresh` rows.

    Where `allowed` is given, only rows with these vector_ids are ever found, of either. `groups` are what
    `search` may be told to leave out.
    """

    def __init__(
        self,
        base: Searcher,
        *,
        gone: Ints | None = None,
        fresh: Searcher | None = None,
        allowed: Ints | None = None,
        groups: Groups | None = None,
    ) -> None:
        allowed = None if allowed is None else np.sort(allowed)
        gone = None if gone is None else np.sort(gone)
        self.base, self.groups = base, groups
        within = RowSet.select(base.shards, allowed=allowed, gone=gone)
        self._parts = [_Part(base, within, groups)]
        if fresh is not None:
            within = RowSet.select(fresh.shards, allowed=allowed)
            self._parts.append(_Part(fresh, within, groups))

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.base.manifest.spec.dim

    @property
    def rows(self) -> int:
        """Rows that a search can return."""
        return sum(part.rows for part in self._parts)

    def search(
        self,
        xq: Floats,
        *,
        k: int,
        nprobe: int | None = None,
        k_factor: int | None = None,
        without: NDArray[np.int32] | None = None,
    ) -> SearchResult:
        """The best rows for each query as `Searcher.search` gives them, as many as there are up to k.

        No row of a group in `without` is among them.
        """
        found = []
        for part in self._parts:
            within = part.within if without is None or not without.size else part.less(without)
            search = part.searcher.search
            found.append(search(xq, k=k, nprobe=nprobe, k_factor=k_factor, within=within))
        if len(found) == 1:
            return found[0]
        D, I = np.hstack([part.D for part in found]), np.hstack([part.I for part in found])
        ids = np.hstack([part.ids for part in found])
        order = top_order(D, I, k, keep_max=True)
        return SearchResult(
            np.take_along_axis(D, order, axis=1),
            np.take_along_axis(I, order, axis=1),
            np.take_along_axis(ids, order, axis=1),
        )
