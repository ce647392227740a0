"""Exact top-k by blocked matrix products, and the merge of partial top-k lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from udfs.index.vectors import Floats, Ints

MISSING = -1  # faiss pads short results with this id


def exact_topk(xq: Floats, blocks: Iterable[tuple[Ints, Floats]], k: int) -> tuple[Floats, Ints]:
    """The k largest inner products of each query over all blocks: D float32 (q, k), I int64 (q, k).

    `xq` float32 (q, d); `blocks` yields (ids int64 (n,), xb float32 (n, d)), so that the base never has to
    fit memory. Best first; equal scores by smaller id; where there are fewer than k rows, -inf and -1.
    """
    D = np.full((len(xq), k), -np.inf, dtype=np.float32)
    I = np.full((len(xq), k), MISSING, dtype=np.int64)
    for ids, xb in blocks:
        scores = xq @ xb.T
        wide = np.broadcast_to(ids, scores.shape)
        if k < scores.shape[1]:
            scores, wide = _largest(scores, wide, k)
        D, I = merge_topk([D, scores], [I, wide], k, keep_max=True)
    return D, I


def merge_topk(
    Ds: Sequence[Floats], Is: Sequence[Ints], k: int, *, keep_max: bool
) -> tuple[Floats, Ints]:
    """Joins top-k lists of the same queries: D, I of shape (q, k), best first, equal values by smaller id.

    Ds[j] float32 (q, n_j), Is[j] int64 (q, n_j) with -1 for no result. `keep_max` is True for inner
    products and False for distances: merging with the wrong one gives only wrong results. Short
    results are padded with the worst value and -1.
    """
    D, I = np.concatenate(Ds, axis=1), np.concatenate(Is, axis=1)
    worst = -np.inf if keep_max else np.inf
    D = np.where(I == MISSING, np.float32(worst), D)
    order = top_order(D, I, k, keep_max=keep_max)
    D, I = np.take_along_axis(D, order, axis=1), np.take_along_axis(I, order, axis=1)
    lacking = k - D.shape[1]
    if lacking > 0:
        D = np.pad(D, ((0, 0), (0, lacking)), constant_values=worst)
        I = np.pad(I, ((0, 0), (0, lacking)), constant_values=MISSING)
    return D.astype(np.float32, copy=False), I


def top_order(D: Floats, I: Ints, k: int, *, keep_max: bool) -> NDArray[np.intp]:
    """Positions (…, min(k, n)) of the best values of D and I (q, n) in each row, or of (n,); equal values by smaller id,
    missing last.
    """
    key = np.where(I == MISSING, np.float32(np.inf), -D if keep_max else D)
    if D.ndim == 1 or not 0 < k < D.shape[1]:
        return np.lexsort((I, key, I == MISSING), axis=-1)[..., :k]
    # Sorting k of each row is far cheaper than sorting them all, and right where no value ties with the last one.
    order = np.argpartition(key, k - 1, axis=1)[:, :k]
    best, ids = np.take_along_axis(key, order, axis=1), np.take_along_axis(I, order, axis=1)
    order = np.take_along_axis(order, np.lexsort((ids, best, ids == MISSING), axis=-1), axis=1)
    tied = np.flatnonzero((key <= best.max(axis=1, keepdims=True)).sum(axis=1) > k)
    if tied.size:
        order[tied] = np.lexsort((I[tied], key[tied], I[tied] == MISSING), axis=-1)[:, :k]
    return order


def _largest(scores: Floats, ids: Ints, k: int) -> tuple[Floats, Ints]:
    """k of each row, by value; where several tie for the last place, those with the smallest ids."""
    part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    D, I = np.take_along_axis(scores, part, axis=1), np.take_along_axis(ids, part, axis=1)
    tied = np.flatnonzero((scores >= D.min(axis=1, keepdims=True)).sum(axis=1) > k)
    if tied.size:
        D[tied], I[tied] = merge_topk([scores[tied]], [ids[tied]], k, keep_max=True)
    return D, I
