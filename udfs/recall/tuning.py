"""Choosing an operating point to a target: the cheapest whose recall reaches it by the lower confidence bound."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udfs.index.points import ANY_KIND, Point
from udfs.recall.recall import Shares, standard_error

Z95_ONE_SIDED = 1.6448536269514722  # a plain mean at the target meets it on unseen queries about every other time
ALLOWED_FAILURES = 2
STEPS = (0.9, 0.95, 0.98, 0.99)  # recalls that an index gets points for, beside the target
NPROBE_LIMIT = 1024
K_FACTORS = (1, 2, 5, 10, 20, 40)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Goal:
    """What an index is tuned to. `max_ms` is the median of single searches on one core; `max_bytes` code and id."""

    recall: float
    k: int
    max_ms: float | None = None
    max_bytes: int | None = None

    def __str__(self) -> str:
        limits = [f"{self.max_ms:g} ms"] if self.max_ms is not None else []
        limits += [f"{self.max_bytes} bytes a vector"] if self.max_bytes is not None else []
        under = f" under {' and '.join(limits)}" if limits else ""
        return f"recall@{self.k} ≥ {self.recall:g}{under}"


@dataclass(frozen=True)
class Measured:
    """One point, searched: of each query its recall, whether its nearest row was found, milliseconds; float64 (q,) each."""

    point: Point
    recalls: Shares
    firsts: Shares
    ms: Shares

    def take(self, queries: Mask) -> Measured:
        """The same of some queries."""
        return Measured(self.point, self.recalls[queries], self.firsts[queries], self.ms[queries])

    @property
    def cost(self) -> float:
        """Median milliseconds of a query."""
        return float(np.median(self.ms))


def lower_bound(shares: Shares) -> float:
    """One-sided 95 % bound of the mean of float64 (q,); -inf for fewer than two queries, which bound nothing.

    Mean minus 1.64 standard errors, less what skewness takes: near a recall of 1 most queries find everything and a
    few find little, and a sample that has too few of those has too small an error as well. (First-order Edgeworth
    correction of Student's t: P. Hall, The Bootstrap and Edgeworth Expansion, 1992, chapter 2.)
    """
    error, n = standard_error(shares), len(shares)
    if np.isnan(error):
        return -np.inf
    mean, spread = float(shares.mean()), error * math.sqrt(n)
    third = float(((shares - mean) ** 3).mean())
    skewness = min(third / spread**3, 0.0) if spread > 0 else 0.0
    return mean - Z95_ONE_SIDED * error + skewness * spread * (2 * Z95_ONE_SIDED**2 + 1) / (6 * n)


def queries_needed(recall: float, *, least: int) -> int:
    """Queries of a kind that can tell whether `recall` is reached: two of them may fail, and `least` at any recall.

    With fewer the bound does not keep what it promises: at .995, 200 queries met it in 84 % of resplits, 400 in 94 %.
    """
    return max(least, math.ceil(ALLOWED_FAILURES / (1 - recall)))


def bound_of_kinds(recalls: Shares, kinds: NDArray[np.str_]) -> float:
    """The lowest of the kinds' lower bounds: easy kinds must not carry a hard one."""
    return min(lower_bound(recalls[kinds == kind]) for kind in np.unique(kinds))


def grid(nlist: int, *, refined: bool) -> tuple[Point, ...]:
    """Every point to be priced: powers of two of nprobe, and k' from k to 40 k where candidates are re-ranked."""
    limit = max(1, min(nlist, NPROBE_LIMIT))
    nprobes = sorted({2**power for power in range(limit.bit_length())} | {limit})
    return tuple(Point(n, factor) for n in nprobes for factor in (K_FACTORS if refined else (1,)))


def shortlist(
    priced: Mapping[Point, Shares], kinds: NDArray[np.str_], targets: Sequence[float]
) -> tuple[Point, ...]:
    """The points worth a clock: for each nprobe and target the fewest candidates that reach it, and the best of all.

    `priced` has the recall of each query; a target is reached where every kind's lower bound does, or one kind's.
    """
    picked = {max(priced, key=lambda point: bound_of_kinds(priced[point], kinds))}
    masks = [kinds == kind for kind in np.unique(kinds)]
    bounds = {p: [lower_bound(priced[p][mask]) for mask in masks] for p in priced}
    for kind_bounds in ({p: [min(b)] for p, b in bounds.items()}, bounds):
        width = len(next(iter(kind_bounds.values())))
        for target in targets:
            for column in range(width):
                fit = [p for p, b in kind_bounds.items() if b[column] >= target]
                for nprobe in {p.nprobe for p in fit}:
                    same = [p for p in fit if p.nprobe == nprobe]
                    picked.add(min(same, key=lambda p: p.k_factor))
    return tuple(sorted(picked, key=lambda p: (p.nprobe, p.k_factor)))


def cheapest(
    measured: Sequence[Measured],
    kinds: NDArray[np.str_],
    *,
    recall: float,
    max_ms: float | None = None,
) -> Measured | None:
    """The fastest point whose every kind reaches `recall` by its lower bound within max_ms; None where none does."""
    fit = [m for m in measured if bound_of_kinds(m.recalls, kinds) >= recall]
    fit = [m for m in fit if max_ms is None or m.cost <= max_ms]
    return min(fit, key=lambda m: m.cost, default=None)


def nearest(
    measured: Sequence[Measured], kinds: NDArray[np.str_], *, max_ms: float | None
) -> Measured:
    """The point that comes nearest to a recall that none reaches: the highest bound within max_ms, else the fastest."""
    fit = [m for m in measured if max_ms is None or m.cost <= max_ms]
    if not fit:
        return min(measured, key=lambda m: m.cost)
    return max(fit, key=lambda m: bound_of_kinds(m.recalls, kinds))


def tuning_half(query_ids: Sequence[str], kinds: NDArray[np.str_]) -> Mask:
    """True for every second query of each kind in the order of a hash: bool (q,); the others are to report on."""
    order = sorted(
        range(len(query_ids)), key=lambda q: hashlib.sha256(query_ids[q].encode()).digest()
    )
    chosen, seen = np.zeros(len(query_ids), np.bool_), dict.fromkeys(np.unique(kinds).tolist(), 0)
    for q in order:
        kind = str(kinds[q])
        chosen[q] = seen[kind] % 2 == 0
        seen[kind] += 1
    return chosen


def choices(
    measured: Sequence[Measured], kinds: NDArray[np.str_], targets: Sequence[float]
) -> dict[tuple[str, float], Measured]:
    """The fastest point for each kind, and for any, and each target; those out of reach are left out."""
    found = {}
    for kind in (ANY_KIND, *np.unique(kinds).tolist()):
        mask = np.ones(len(kinds), np.bool_) if kind == ANY_KIND else kinds == kind
        of_kind = [m.take(mask) for m in measured]
        for target in targets:
            best = cheapest(of_kind, kinds[mask], recall=target)
            if best is not None:
                found[kind, target] = best
    return found
