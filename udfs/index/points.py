"""Operating points: how many lists are read and candidates re-ranked, and the recall and time that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from udfs.errors import SettingsError

ANY_KIND = "any"


@dataclass(frozen=True)
class Point:
    """How an index is searched: `nprobe` lists, k · `k_factor` candidates re-ranked exactly."""

    nprobe: int
    k_factor: int


@dataclass(frozen=True)
class OperatingPoint:
    """A point chosen on some queries to reach recall `target` at k, with what other queries then measured.

    `kind` is the modalities of those queries, or "any": each kind reaches it. `low` is the lower end of the 95 %
    interval of `recall`; `ms` the median of a query searched alone on one core.
    """

    kind: str
    k: int
    target: float
    nprobe: int
    k_factor: int
    recall: float
    low: float
    ms: float


def point_for(
    points: Sequence[OperatingPoint], *, recall: float, k: int, kind: str = ANY_KIND
) -> Point:
    """The fastest stored point that was tuned to at least `recall` at this k. Raises SettingsError with those there are.

    A point says nothing of another k: more results are harder, and fewer re-rank fewer candidates.
    """
    fit = [p for p in points if p.kind == kind and p.k == k and p.target >= recall]
    if not fit:
        have = ", ".join(f"{p.target:g} at {p.k}" for p in points if p.kind == kind)
        raise SettingsError(
            f"recall {recall:g} at {k} was asked for, but the index has operating points for {have or 'no recall'}; "
            "run gme-lake tune-index with this recall and k, or ask for nprobe and k_factor"
        )
    best = min(fit, key=lambda p: p.ms)
    return Point(best.nprobe, best.k_factor)
