"""Recall at k against exact search, with what chance may have added to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from udfs.ann.vectors import Ints

Z95 = 1.959963984540054


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


def recall_at_k(I: Ints, I_exact: Ints, k: int) -> Recall:
    """Recall of I int64 (q, >=k) against I_exact int64 (q, >=k), -1 for no result.

    Wilson's interval with the number of queries as the number of trials: the k hits of a query hang
    together, and a share has at most the variance of a coin, so it is wide enough; and at a recall of 1
    it still says that some 200 queries cannot tell 1.00 from .98. (E. B. Wilson, JASA 22, 1927.)
    """
    if len(I) != len(I_exact) or not len(I):
        raise ValueError(
            f"recall needs as many results as exact ones, at least one; got {len(I)} and {len(I_exact)}"
        )
    shares = np.array([_share(found[:k], true[:k]) for found, true in zip(I, I_exact, strict=True)])
    low, high = wilson(float(shares.mean()), len(shares))
    error = float(shares.std(ddof=1) / math.sqrt(len(shares))) if len(shares) > 1 else math.nan
    return Recall(float(shares.mean()), low, high, error, len(shares), k)


def wilson(p: float, n: int, *, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a share p of n trials."""
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _share(found: Ints, true: Ints) -> float:
    wanted = true[true >= 0]
    return float(np.isin(wanted, found).mean()) if wanted.size else 1.0
