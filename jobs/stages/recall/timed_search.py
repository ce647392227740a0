"""One task searches an index for a query set and times it: several at once would measure each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.stages.recall.queries import AskedQueries, recall_folder
from udfs.index.points import Point
from udfs.recall.measure import MeasureSpec, measure_batches, price_batches
from udfs.recall.recall import Shares
from udfs.recall.truth import TruthKey
from udfs.recall.tuning import Measured


@dataclass(frozen=True)
class Measurable:
    """An index in a folder, and the sha-256 of its manifest as it was committed; None: it is not."""

    root: str
    manifest_sha256: str | None


def measure(
    lake: Lake, index: Measurable, *, asked: AskedQueries, key: TruthKey, points: Sequence[Point]
) -> list[Measured]:
    """Every query searched alone at every point, queries in the order of the set. Raises IndexDataError."""
    spec = _spec(lake, index, asked, key, points)
    found = _by_point(on_executors(_one_row(lake), measure_batches, spec=spec).table())
    return [
        Measured(point, columns["recall"], columns["first"], columns["ms"])
        for point, columns in found.items()
    ]


def price(
    lake: Lake, index: Measurable, *, asked: AskedQueries, key: TruthKey, points: Sequence[Point]
) -> dict[Point, Shares]:
    """Recall of every query at every point that is of use, from one search per nprobe. Raises IndexDataError."""
    spec = _spec(lake, index, asked, key, points)
    found = _by_point(on_executors(_one_row(lake), price_batches, spec=spec).table())
    return {point: columns["recall"] for point, columns in found.items()}


def _spec(
    lake: Lake, index: Measurable, asked: AskedQueries, key: TruthKey, points: Sequence[Point]
) -> MeasureSpec:
    folder = recall_folder(lake)
    return MeasureSpec(index.root, asked.path, folder, key, tuple(points), index.manifest_sha256)


def _one_row(lake: Lake) -> DataFrame:
    """What starts one task."""
    return lake.spark.range(0, 1, 1, 1)


def _by_point(table: pa.Table) -> dict[Point, dict[str, Shares]]:
    columns = {name: np.asarray(table[name]) for name in table.column_names}
    order = np.lexsort((columns["query"], columns["k_factor"], columns["nprobe"]))
    columns = {name: values[order] for name, values in columns.items()}
    points = np.stack([columns["nprobe"], columns["k_factor"]], axis=1)
    found = {}
    for nprobe, k_factor in np.unique(points, axis=0).tolist():
        at = (points == (nprobe, k_factor)).all(axis=1)
        found[Point(nprobe, k_factor)] = {name: values[at] for name, values in columns.items()}
    return found
