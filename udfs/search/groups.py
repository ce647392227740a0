"""Which rows belong together, so that a search can return at most n of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from udfs.index.vectors import Ints

NO_GROUP = -1  # of a row that stands for itself: there may be any number of such


@dataclass(frozen=True)
class Groups:
    """Group numbers from 0, `codes` int32 (n,), of the rows with `vector_ids` int64 (n,), ascending."""

    vector_ids: Ints
    codes: NDArray[np.int32]

    @cached_property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.codes.max()) + 1 if self.codes.size else 0

    def of(self, vector_ids: Ints) -> NDArray[np.int32]:
        """The group of each row, of any shape; NO_GROUP for rows that are not named."""
        if not self.vector_ids.size:
            return np.full(vector_ids.shape, NO_GROUP, np.int32)
        at = np.minimum(np.searchsorted(self.vector_ids, vector_ids), len(self.vector_ids) - 1)
        return np.where(self.vector_ids[at] == vector_ids, self.codes[at], np.int32(NO_GROUP))

    def members(
        self, of_rows: Sequence[NDArray[np.int32]], groups: NDArray[np.int32]
    ) -> list[NDArray[np.bool_]]:
        """Whether each row, whose group is in `of_rows`, belongs to one of `groups`."""
        wanted = np.zeros(self.count + 1, np.bool_)  # the last place is NO_GROUP's
        wanted[groups] = True
        wanted[NO_GROUP] = False
        return [wanted[codes] for codes in of_rows]
