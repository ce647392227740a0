"""Rows that a search found, at most so many of a group; and the merge of what several parts found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.index.vectors import Floats, Ints
from udfs.search.exact import top_order
from udfs.search.groups import NO_GROUP


class Hits(NamedTuple):
    """Rows found, best first, equal scores by smaller vector_id: (n,) of one query, or (q, n), as many of each of several.

    D float32 inner products, I int64 vector_ids, ids row ids, groups int32. `complete` is False where rows of further
    groups may exist but the search for them was given up.
    """

    D: Floats
    I: Ints
    ids: NDArray[np.object_]
    groups: NDArray[np.int32]
    complete: bool = True

    def split(self) -> list[Hits]:
        """Those of each of several queries."""
        return [Hits(*row) for row in zip(self.D, self.I, self.ids, self.groups, strict=True)]

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Hits:
        """Some of one query's rows."""
        return Hits(self.D[at], self.I[at], self.ids[at], self.groups[at], self.complete)


NOTHING = Hits(
    np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, object), np.empty(0, np.int32)
)


def merge_hits(parts: Sequence[Hits], k: int, *, max_per: int | None = None) -> Hits:
    """The k best rows of the parts' together: of one query, where there is a limit, else of one or several.

    Where each part is the k best of its own rows under `max_per`, this is exact: a part leaves a row out only for
    max_per better ones of its group or k better ones in all, and those are better in the whole as well.
    """
    D = np.concatenate([part.D for part in parts], axis=-1)
    I = np.concatenate([part.I for part in parts], axis=-1)
    ids = np.concatenate([part.ids for part in parts], axis=-1)
    groups = np.concatenate([part.groups for part in parts], axis=-1)
    order = top_order(D, I, k if max_per is None else D.size, keep_max=True)
    best = Hits(
        np.take_along_axis(D, order, axis=-1),
        np.take_along_axis(I, order, axis=-1),
        np.take_along_axis(ids, order, axis=-1),
        np.take_along_axis(groups, order, axis=-1),
        all(part.complete for part in parts),
    )
    return best if max_per is None else best.take(limit_groups(best.groups, max_per)[:k])


def limit_groups(groups: NDArray[np.int32], max_per: int) -> NDArray[np.intp]:
    """Positions of rows (n,), in order, that are among the first max_per of their group."""
    seen: dict[int, int] = {}
    kept = []
    for at, group in enumerate(groups.tolist()):
        seen[group] = seen.get(group, 0) + 1
        if group == NO_GROUP or seen[group] <= max_per:
            kept.append(at)
    return np.array(kept, dtype=np.intp)
