"""Figures of measured points: recall with intervals and latency, for all queries, by kind and by segment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.stages.recall.queries import AskedQueries
from udfs.index.points import ANY_KIND
from udfs.recall.recall import Recall, recall_of
from udfs.recall.tuning import Mask, Measured


class Group(NamedTuple):
    """Queries that figures are of: a kind, or the queries with one value of a segment column."""

    kind: str
    segment: str | None = None
    segment_value: str | None = None

    def __str__(self) -> str:
        return self.kind if self.segment is None else f"{self.segment}={self.segment_value}"


@dataclass(frozen=True)
class PointFigures:
    """One group at one point: recall at k, `first` (the nearest row is among the k), milliseconds a query."""

    group: Group
    measured: Measured
    recall: Recall
    first: Recall
    ms_median: float
    ms_p95: float

    def row(self) -> dict[str, Any]:
        """Columns of `recalls`."""
        return {
            **self.group._asdict(),
            "nprobe": self.measured.point.nprobe,
            "k_factor": self.measured.point.k_factor,
            "queries": self.recall.queries,
            "recall": self.recall.value,
            "recall_low": self.recall.low,
            "recall_high": self.recall.high,
            "first": self.first.value,
            "first_low": self.first.low,
            "first_high": self.first.high,
            "ms_median": self.ms_median,
            "ms_p95": self.ms_p95,
        }


def groups_of(asked: AskedQueries) -> dict[Group, Mask]:
    """All queries, each kind, each value of each segment column: which queries are in it, bool (q,)."""
    kinds = np.array(asked.kinds)
    found: dict[Group, Mask] = {Group(ANY_KIND): np.ones(len(kinds), np.bool_)}
    found |= {Group(kind): kinds == kind for kind in np.unique(kinds).tolist()}
    for column in asked.segments[0] if asked.segments else ():
        values: NDArray[Any] = np.array([segment[column] for segment in asked.segments], object)
        for value in sorted(set(values.tolist()), key=lambda v: (v is None, v or "")):
            found[Group(ANY_KIND, column, value)] = values == value
    return found


def figures(
    measured: Sequence[Measured], groups: dict[Group, Mask], *, k: int
) -> Iterator[PointFigures]:
    """Every group at every point."""
    for point in measured:
        for group, mask in groups.items():
            mine = point.take(mask)
            yield PointFigures(
                group=group,
                measured=mine,
                recall=recall_of(mine.recalls, k),
                first=recall_of(mine.firsts, 1),
                ms_median=mine.cost,
                ms_p95=float(np.quantile(mine.ms, 0.95)),
            )
