"""Percentile bootstrap over queries: intervals of means, and of paired differences between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000  # what Efron & Tibshirani (1993, §13.3) ask for percentile intervals
_BLOCK = 1 << 22  # drawn query numbers held at once


@dataclass(frozen=True)
class Score:
    """A mean over queries with its 95 % percentile bootstrap interval over them."""

    mean: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class Difference:
    """Mean of new minus old over the same queries with its 95 % interval; shares of queries better and worse."""

    mean: float
    low: float
    high: float
    better: float
    worse: float
    queries: int


def interval(values: Floats, *, seed: int | Sequence[int] = 0) -> Score:
    """Mean of values float64 (n,), one a query, with its interval. ValueError where n is 0.

    Where all values are equal the interval has no width, however few they are: a bootstrap knows nothing else.
    """
    low, high = bounds(resample_means(values, seed=seed))
    return Score(float(values.mean()), low, high, len(values))


def ratio(top: Floats, bottom: Floats, *, seed: int | Sequence[int] = 0) -> Score:
    """sum(top) / sum(bottom) of two float64 (n,) over the same units, with its interval over them; bottom > 0.

    ValueError where the lengths differ or n is 0.
    """
    if top.shape != bottom.shape:
        raise ValueError(f"a ratio needs the same units, got {len(top)} and {len(bottom)}")
    low, high = bounds(resample_means(top, seed=seed) / resample_means(bottom, seed=seed))
    return Score(float(top.sum() / bottom.sum()), low, high, len(top))


def difference(new: Floats, old: Floats, *, seed: int | Sequence[int] = 0) -> Difference:
    """Paired difference of two float64 (n,) over the same queries in the same order: queries are resampled, not runs.

    ValueError where the lengths differ or n is 0.
    """
    if new.shape != old.shape:
        raise ValueError(f"paired values need the same queries, got {len(new)} and {len(old)}")
    change = new - old
    low, high = bounds(resample_means(change, seed=seed))
    better, worse = float((change > 0).mean()), float((change < 0).mean())
    return Difference(float(change.mean()), low, high, better, worse, len(change))


def resample_means(values: Floats, *, seed: int | Sequence[int] = 0) -> Floats:
    """Means (RESAMPLES,) of samples of float64 (n,), drawn with replacement and as large (Efron & Tibshirani,
    An Introduction to the Bootstrap, 1993, §13.3). The same seed and values give the same means.
    """
    n = len(values)
    if not n:
        raise ValueError("a bootstrap needs at least one query")
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // n)
    sizes = (min(step, RESAMPLES - start) for start in range(0, RESAMPLES, step))
    return np.concatenate([values[rng.integers(0, n, (size, n))].mean(axis=1) for size in sizes])


def bounds(means: Floats) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of resampled means (RESAMPLES,)."""
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
