"""The indexes that tuning tries, in the order in which it does: from the rule's default to finer or narrower lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from udfs.index.cost import ID_BYTES
from udfs.index.plan import (
    FLAT_ROWS,
    MIN_ROWS_PER_CENTROID,
    NLIST_RANGE,
    factory_traits,
    nlist_by_rule,
    opq_pq_factory,
)

Short = Literal["recall", "time"]


@dataclass(frozen=True)
class Candidate:
    """An index to try. `factory` has {nlist} in it where `nlist` is set; `bytes` of code and id of a vector.

    `helps`: what must have been short before it is worth building; None: always.
    """

    factory: str
    nlist: int | None
    bytes: int
    helps: Short | None = None

    def __str__(self) -> str:
        return f"{fill_nlist(self.factory, self.nlist)} ({self.bytes:,} bytes a vector)"


def ladder(rows: int, dim: int) -> tuple[Candidate, ...]:
    """Candidates for a table, in order: exact where that is quick, 4-bit codes with re-rank by the rule, twice as many
    lists where it is too slow, finer codes where it finds too little, and narrow codes for few bytes. Those that the
    rows are too few to train are left out.
    """
    lists = nlist_by_rule(rows)
    default = opq_pq_factory(dim)
    found = [_candidate("Flat", None, dim)] if rows <= FLAT_ROWS else []
    found.append(_candidate(default, lists, dim))
    if dim >= 128 and default != "OPQ32_128,IVF{nlist},PQ32x4fs":
        found.append(_candidate("OPQ32_128,IVF{nlist},PQ32x4fs", lists, dim, helps=None))
    twice = 2 * lists
    if twice <= NLIST_RANGE[1]:
        found.append(_candidate(default, twice, dim, helps="time"))
    if dim >= 512:
        found.append(_candidate("OPQ128_512,IVF{nlist},PQ128x4fs", lists, dim, helps="recall"))
    found.append(_candidate("IVF{nlist},SQ8", lists, dim, helps="recall"))
    return tuple(c for c in found if _trainable(c, rows, dim))


def affordable(candidates: tuple[Candidate, ...], max_bytes: int | None) -> tuple[Candidate, ...]:
    """Those within max_bytes; narrow codes are tried only where the default's are too large."""
    fit = tuple(c for c in candidates if max_bytes is None or c.bytes <= max_bytes)
    coded = [c for c in fit if c.factory.startswith("OPQ") and c.helps is None]
    return tuple(c for c in fit if c not in coded[1:])


def fill_nlist(factory: str, nlist: int | None) -> str:
    """The faiss factory string."""
    return factory.replace("{nlist}", str(nlist))


def _candidate(
    factory: str, nlist: int | None, dim: int, *, helps: Short | None = None
) -> Candidate:
    return Candidate(factory, nlist, bytes_of(fill_nlist(factory, nlist), dim), helps)


def _trainable(candidate: Candidate, rows: int, dim: int) -> bool:
    traits = factory_traits(fill_nlist(candidate.factory, candidate.nlist), dim)
    return rows >= MIN_ROWS_PER_CENTROID * traits.centroids


def bytes_of(factory: str, dim: int) -> int:
    """Bytes that a vector takes in an index of this factory: its code, and its id where there are lists.

    Re-rank vectors and row ids are files that are mapped, not held: they do not count.
    """
    traits = factory_traits(factory, dim)
    return traits.code_bytes + (ID_BYTES if traits.nlist else 0)
