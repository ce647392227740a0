"""Candidates by the codes of all shards: rotate and assign the queries once, search each shard, merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from udfs.index.plan import inner_index, transforms
from udfs.index.vectors import Floats, Ints
from udfs.search.exact import MISSING, merge_topk
from udfs.search.opened import OpenShard
from udfs.search.within import RowSet


class CandidateSource:
    """The shards of one index behind the quantizer they share.

    Assigning queries per shard would repeat the rotation and nlist products for each of them.
    """

    def __init__(self, quantizer: Any, shards: Sequence[OpenShard]) -> None:
        inner = inner_index(quantizer)
        self._quantizer = quantizer  # owns what the next two point into
        self._transforms = transforms(quantizer)
        ivf = isinstance(inner, faiss.IndexIVF)
        self.has_lists = ivf
        self._coarse = faiss.downcast_index(inner.quantizer) if ivf else None
        self._keep_max = inner.metric_type == faiss.METRIC_INNER_PRODUCT
        self._shards = shards

    def rotate(self, xq: Floats) -> Floats:
        """Queries as the indexes behind the rotation see them."""
        for transform in self._transforms:
            xq = np.ascontiguousarray(transform.apply(xq))
        return xq

    def candidates(
        self, xr: Floats, n: int, nprobe: int, within: RowSet | None = None
    ) -> tuple[Floats, Ints]:
        """The n best rows of rotated queries xr: D (q, n) in the index's metric, I global rows, -1 padded.

        Of inverted lists, rows that are not `within` are passed over; other indexes have no such search here.
        """
        assigned = self._coarse.search(xr, nprobe) if self._coarse is not None else None
        Ds, Is = [], []
        for position, shard in enumerate(self._shards):
            k = min(n, shard.rows)
            if assigned is None:
                D, I = shard.searched.search(xr, k)
            else:
                bitmap = None if within is None else within.bitmaps[position]
                D, I = _search_lists(shard.searched, xr, k, assigned, _parameters(nprobe, bitmap))
            Ds.append(D)
            Is.append(np.where(I == MISSING, MISSING, I + shard.first))
        return _merge(Ds, Is, n, keep_max=self._keep_max)


def _merge(
    Ds: Sequence[Floats], Is: Sequence[Ints], n: int, *, keep_max: bool
) -> tuple[Floats, Ints]:
    """As `merge_topk`, but of rows with equal codes any may come first, as in faiss: they are ranked again anyway."""
    D, I = (Ds[0], Is[0]) if len(Is) == 1 else (np.hstack(Ds), np.hstack(Is))
    if D.shape[1] == n and len(Is) == 1:
        return D, I
    if D.shape[1] <= n:
        return merge_topk([D], [I], n, keep_max=keep_max)
    key = np.where(I == MISSING, np.float32(np.inf), -D if keep_max else D)
    order = np.argpartition(key, n - 1, axis=1)[:, :n]
    best = np.argsort(np.take_along_axis(key, order, axis=1), axis=1)
    order = np.take_along_axis(order, best, axis=1)
    return np.take_along_axis(D, order, axis=1), np.take_along_axis(I, order, axis=1)


def _parameters(nprobe: int, bitmap: NDArray[np.uint8] | None) -> Any:
    """Both are given in full: a file keeps an nprobe of its own, and fast-scan refuses any other kind."""
    parameters: Any = faiss.SearchParametersIVF  # its constructor keeps what it is given alive
    selector: Any = faiss.IDSelectorBitmap
    return (
        parameters(nprobe=nprobe)
        if bitmap is None
        else parameters(nprobe=nprobe, sel=selector(bitmap))
    )


def _search_lists(
    ivf: Any, xr: Floats, k: int, assigned: tuple[Floats, Ints], parameters: Any
) -> tuple[Floats, Ints]:
    """faiss's search_preassigned; its Python wrapper takes no parameters and reads nprobe from the file."""
    Dq, Iq = assigned
    D = np.empty((len(xr), k), dtype=np.float32)
    I = np.empty((len(xr), k), dtype=np.int64)
    ivf.search_preassigned_c(
        len(xr),
        faiss.swig_ptr(xr),
        k,
        faiss.swig_ptr(Iq),
        faiss.swig_ptr(Dq),
        faiss.swig_ptr(D),
        faiss.swig_ptr(I),
        False,
        parameters,
    )
    return D, I
