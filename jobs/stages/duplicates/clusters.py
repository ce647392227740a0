"""Clusters: connected components of pairs of ids, in the driver."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from udfs.columns import Columns
from udfs.index.vectors import Ints

CLUSTERS = Columns("cluster_id string, id string, size bigint")


@dataclass(frozen=True)
class Clusters:
    """Rows that pairs connect. `ids` (n,) ascending by their bytes; of each row: the position of its cluster's smallest
    id, how many rows that cluster has, and the row's highest score.
    """

    ids: pa.Array
    first: Ints
    size: Ints
    best: NDArray[np.float64]

    @cached_property
    def firsts(self) -> Ints:
        """The position of each cluster's smallest id, largest cluster first, then by smallest id."""
        firsts = np.flatnonzero(self.first == np.arange(len(self.first)))
        return firsts[np.lexsort((firsts, -self.size[firsts]))]

    @property
    def count(self) -> int:
        """How many clusters there are."""
        return len(self.firsts)

    def largest(self, number: int) -> list[Ints]:
        """Positions of the rows of the largest clusters, as `firsts` has them; goes through all rows for each."""
        return [np.flatnonzero(self.first == first) for first in self.firsts[:number]]

    def table(self) -> pa.Table:
        """CLUSTERS rows, those of one cluster together."""
        order = pa.array(np.lexsort((np.arange(len(self.first)), self.first)))
        columns = [self.ids.take(pa.array(self.first)), self.ids, pa.array(self.size)]
        table = pa.table(columns, names=CLUSTERS.names)
        return table.take(order)


def cluster_pairs(pairs: pa.Table) -> Clusters:
    """Clusters of pairs (id_a, id_b, score): memory is some hundred bytes a pair."""
    id_a, id_b = (pairs.column(name).combine_chunks() for name in ("id_a", "id_b"))
    every = pc.unique(pa.concat_arrays([id_a, id_b]))
    ids = every.take(pc.sort_indices(every))
    a, b = (np.asarray(pc.index_in(side, ids), dtype=np.int64) for side in (id_a, id_b))
    first = connect(a, b, rows=len(ids))
    best = np.full(len(ids), -np.inf)
    scores = np.asarray(pairs.column("score"), dtype=np.float64)
    for side in (a, b):
        np.maximum.at(best, side, scores)
    size = np.bincount(first, minlength=len(ids))[first].astype(np.int64)
    return Clusters(ids, first, size, best)


def connect(a: Ints, b: Ints, *, rows: int) -> Ints:
    """The smallest number that each of `rows` numbers is connected with by pairs a, b int64 (n,).

    A union-find over all pairs at once: each round hangs the roots that pairs still join under the smallest such root,
    and lets every number point at its root.
    """
    root = np.arange(rows, dtype=np.int64)
    while True:
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        apart = low < high
        if not apart.any():
            return root
        np.minimum.at(root, high[apart], low[apart])
        while not np.array_equal(above := root[root], root):
            root = above
