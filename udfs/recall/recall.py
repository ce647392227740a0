"""Recall at k against exact search, query by query, and what chance may have added to its mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udfs.bootstrap import interval
from udfs.index.vectors import Floats, Ints

Shares = NDArray[np.float64]

Z95 = 1.959963984540054
TIE = 1e-6  # inner products of equal vectors differ by that much where they were added in another order


@dataclass(frozen=True)
class Recall:
    """Mean share of the exact top-k that was found. `low` and `high` are a 95 % interval over queries."""

    value: float
    low: float
    high: float
    standard_error: float
    queries: int
    k: int

    def __str__(self) -> str:
        return (
            f"recall@{self.k} {self.value:.4f} [{self.low:.4f}, {self.high:.4f}], "
            f"{self.queries} queries"
        )


def recall_at_k(I: Ints, I_exact: Ints, k: int, *, D_exact: Floats | None = None) -> Recall:
    """Recall of I int64 (q, >=k) against I_exact int64 (q, >=k), -1 for no result; see `recall_by_query`."""
    if len(I) != len(I_exact) or not len(I):
        raise ValueError(
            f"recall needs as many results as exact ones, at least one; got {len(I)} and {len(I_exact)}"
        )
    return recall_of(recall_by_query(I[:, :k], I_exact, k, D_exact=D_exact), k)


def recall_of(shares: Shares, k: int) -> Recall:
    """The mean of `shares` float64 (q,) with its percentile bootstrap interval over queries.

    Where all queries have the same share, resampling says nothing: there it is Wilson's interval with the number of
    queries as the number of trials, which at a recall of 1 still says that 200 queries cannot tell 1.00 from .98
    (E. B. Wilson, JASA 22, 1927; a share has at most the variance of a coin, so it is wide enough).
    """
    mean, n = float(shares.mean()), len(shares)
    if n and float(np.ptp(shares)) == 0.0:
        low, high = wilson(mean, n)
    else:
        score = interval(shares)
        low, high = score.low, score.high
    return Recall(mean, low, high, standard_error(shares), n, k)


def standard_error(shares: Shares) -> float:
    """Of the mean of `shares` float64 (q,); NaN for a single query."""
    n = len(shares)
    return float(shares.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan


def recall_by_query(I: Ints, I_exact: Ints, k: int, *, D_exact: Floats | None = None) -> Shares:
    """Share of each query's k nearest rows that stands anywhere in its I int64 (q, n): float64 (q,).

    I_exact int64 (q, m), best first, -1 for no row. With its scores D_exact float32 (q, m), a row that ties with the
    k-th is as good as it: which of two equal vectors is found says nothing about an index. Ties beyond m are not
    seen. A table with fewer than k rows is found when all of them are; an empty one always is.
    """
    shares = np.ones(len(I), np.float64)
    for q, found in enumerate(I):
        exact = I_exact[q][I_exact[q] >= 0]
        wanted = min(k, len(exact))
        if not wanted:
            continue
        hit = np.isin(exact, found)
        if D_exact is None:
            shares[q] = hit[:wanted].mean()
            continue
        D = D_exact[q][: len(exact)]
        better, tied = D[wanted - 1] + TIE < D, np.abs(D - D[wanted - 1]) <= TIE
        places = wanted - int(better.sum())
        right = int(hit[better].sum()) + min(int(hit[tied].sum()), places)
        shares[q] = right / wanted
    return shares


def wilson(p: float, n: int, *, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a share p of n trials."""
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
