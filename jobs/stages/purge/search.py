"""The look through all files: what is known of the ids, and where they stand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.lake.source_views import SourceView
from jobs.stages.purge.places import INDEX, OUTSIDE, SOURCE, TABLE, File, list_files
from udfs.index.shard import ROWS_SUFFIX
from udfs.purge.scan import SCAN_INPUT, Match, learn_batches, scan_batches
from udfs.purge.traces import LEARNT, Traces

_TASK_BYTES = 1 << 30
_LEAST_TASKS, _MAX_TASKS = 4, 1000


@dataclass(frozen=True)
class Sighting:
    """A finding, and the file that it is of."""

    file: File
    found: Match

    @property
    def is_ours(self) -> bool:
        """Whether the lake has to get rid of it; what lies elsewhere, and the source, is named."""
        return self.file.part not in (SOURCE, OUTSIDE)


@dataclass(frozen=True)
class Look:
    """What was found in how many files."""

    sightings: tuple[Sighting, ...]
    files: int
    bytes: int

    @property
    def ours(self) -> tuple[Sighting, ...]:
        """What has to go."""
        return tuple(one for one in self.sightings if one.is_ours)

    def names(self, part: str) -> set[str]:
        """Of which tables, indexes or folders something was found."""
        return {one.file.name for one in self.sightings if one.file.part == part}

    def describe(self) -> str:
        """Files by part, for people."""
        paths = {(one.file.part, one.found.path) for one in self.ours}
        counted = Counter(part for part, _ in paths)
        shown = ", ".join(f"{n:,} of {part}" for part, n in sorted(counted.items()))
        return (
            f"{len(paths):,} of {self.files:,} files hold them ({shown})"
            if paths
            else (f"none of {self.files:,} files holds them")
        )


def learn_traces(
    lake: Lake, ids: Collection[str], sources: Collection[SourceView], *, staging: str
) -> Traces:
    """The vector_ids and vectors that the ids have or had: out of every file of `vectors` that is on disk, of versions
    that are gone too, and the row maps of all indexes.
    """
    nothing = pa.table(
        {"vector_id": pa.array([], pa.int64()), "embedding": pa.array([], pa.list_(pa.float32()))}
    )
    asked = Traces.of(ids, nothing).write(f"{staging}/ids")
    files = [
        file
        for file in list_files(lake, sources, but=staging)
        if (file.part == TABLE and file.name == "vectors" and file.path.endswith(".parquet"))
        or (file.part in (INDEX, OUTSIDE) and file.path.endswith(ROWS_SUFFIX))
    ]
    known = LEARNT.arrow.empty_table()
    if files:
        known = on_executors(_frame(lake, files), learn_batches, traces=asked).table()
    hashes = sorted(set(known["content_hash"].drop_null().to_pylist()))
    same = lake.read("vectors").where(
        F.col("content_hash").isin(hashes) & ~F.col("id").isin([*ids])
    )
    shared = same.where("embedding IS NOT NULL").select("embedding").distinct()
    kept = [pa.array(row.embedding, pa.float32()).to_numpy().tobytes() for row in shared.collect()]
    return Traces.of(ids, known, shared=kept)


def look(lake: Lake, traces: Traces, sources: Collection[SourceView], *, staging: str) -> Look:
    """Look into every file for what is known of the ids. Tasks read them; nothing is written but into `staging`."""
    wanted = traces.write(f"{staging}/traces")
    files = {file.path: file for file in list_files(lake, sources, but=staging)}
    rows = on_executors(_frame(lake, files.values()), scan_batches, traces=wanted).rows()
    found = [Match(r.path, r.place, r.kind, r.rows, tuple(r.ids)) for r in rows]
    sightings = sorted(
        (Sighting(files[one.path], one) for one in found), key=lambda s: (s.file.part, str(s.found))
    )
    return Look(tuple(sightings), len(files), sum(file.bytes for file in files.values()))


def _frame(lake: Lake, files: Collection[File]) -> DataFrame:
    """SCAN_INPUT rows, in as many tasks as their bytes are worth."""
    rows = [(file.path, file.columns, file.same_lake) for file in files]
    worth = math.ceil(sum(file.bytes for file in files) / _TASK_BYTES)
    tasks = max(1, min(len(rows), _MAX_TASKS, max(worth, _LEAST_TASKS)))
    return lake.spark.createDataFrame(rows, SCAN_INPUT.ddl).repartition(tasks)
