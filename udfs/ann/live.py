"""Search of an index that is older than its table: rows gone since are left out, rows new since are searched exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from udfs.ann.exact import top_order
from udfs.ann.search import Searcher, SearchResult
from udfs.ann.vectors import Floats, Ints

SPARE_RESULTS = 100  # fetched beyond k at first, where some rows are gone


class LiveSearcher:
    """An opened index, the sorted int64 vector_ids of it that are `gone`, and an index of `fresh` rows."""

    def __init__(
        self, base: Searcher, *, gone: Ints | None = None, fresh: Searcher | None = None
    ) -> None:
        self._base, self._fresh = base, fresh
        self._gone = np.empty(0, np.int64) if gone is None else np.sort(gone)

    @property
    def index_id(self) -> str:
        """The index without the fresh rows."""
        return self._base.manifest.spec.index_id

    @property
    def dim(self) -> int:
        """Width of its vectors."""
        return self._base.manifest.spec.dim

    @property
    def rows(self) -> int:
        """Rows that a search can return."""
        return self._base.rows - len(self._gone) + (self._fresh.rows if self._fresh else 0)

    def search(
        self, xq: Floats, *, k: int, nprobe: int | None = None, k_factor: int | None = None
    ) -> SearchResult:
        """The min(k, rows) best rows for each query, as `Searcher.search`; none of them is gone."""
        D, I, ids = self._alive(xq, k, nprobe, k_factor)
        if self._fresh is not None and self._fresh.rows:
            new = self._fresh.search(xq, k=k)
            D, I = np.hstack([D, new.D]), np.hstack([I, new.I])
            ids = np.hstack([ids, new.ids])
            order = top_order(D, I, k, keep_max=True)
            D, I = np.take_along_axis(D, order, axis=1), np.take_along_axis(I, order, axis=1)
            ids = np.take_along_axis(ids, order, axis=1)
        return SearchResult(D, I, ids)

    def _alive(
        self, xq: Floats, k: int, nprobe: int | None, k_factor: int | None
    ) -> tuple[Floats, Ints, NDArray[np.object_]]:
        """The best rows of the base that are not gone: more are fetched until each query has enough."""
        k = min(k, self._base.rows - len(self._gone))
        D = np.empty((len(xq), k), np.float32)
        I = np.empty((len(xq), k), np.int64)
        ids = np.empty((len(xq), k), object)
        fetch = k + min(len(self._gone), max(k, SPARE_RESULTS))
        short = np.arange(len(xq) if k else 0)
        while short.size:
            found = self._base.search(xq[short], k=fetch, nprobe=nprobe, k_factor=k_factor)
            alive = ~np.isin(found.I, self._gone)
            done = alive.sum(axis=1) >= k
            first = np.argsort(~alive[done], axis=1, kind="stable")[:, :k]
            at = short[done]
            D[at] = np.take_along_axis(found.D[done], first, axis=1)
            I[at] = np.take_along_axis(found.I[done], first, axis=1)
            ids[at] = np.take_along_axis(found.ids[done], first, axis=1)
            short, fetch = short[~done], min(2 * fetch, self._base.rows)
        return D, I, ids
