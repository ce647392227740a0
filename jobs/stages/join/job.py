"""join_similar from start to end: vectors checked, the right table in a temporary index, searched for the left one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake, read_table
from jobs.lake.results import replace_table, replaceable
from jobs.lake.runs import Run
from jobs.lake.sql import identifier
from jobs.settings.join import JoinSettings
from jobs.settings.search import SearchSettings
from jobs.stages.index.job import build_whole
from jobs.stages.search.job import search_embedded
from jobs.stages.search.queries import read_raw
from udfs.errors import LakeError
from udfs.index.manifest import Manifest
from udfs.index.plan import default_plan
from udfs.search.given_vectors import GIVEN_VECTORS, REASONS, unit_batches
from udfs.specs import IndexPlan, IndexSpec, SearchOptions, SearchSpec

log = logging.getLogger("gme_lake")

RESULTS = ("left_id", "rank", "right_id", "score", "status", "error")
# Beyond these an index that reads a part of the right table is paid back by the searches: both its building and comparing
# all pairs take time in proportion to the right table's rows. Measured, see tests/bench/README.md.
EXACT_LEFT, EXACT_RIGHT = 25_000, 100_000
SHARD_BYTES = 256 << 20  # of vectors; a task builds a shard, and searches them all
_MODEL = "join"  # nobody knows what made the vectors of a table


@dataclass(frozen=True)
class JoinReport:
    """What a run of join_similar came to, in rows. `not_joined`: rows of right without a usable vector, by reason."""

    output: str
    factory: str
    counts: dict[str, int]
    not_joined: dict[str, int]

    def __str__(self) -> str:
        shown = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in self.counts.items())
        said = f"{self.factory}: {shown}; results in {self.output}"
        if not self.not_joined:
            return said
        lost = ", ".join(f"{n:,} {reason}" for reason, n in self.not_joined.items())
        return f"{said}\nrows of the right table that nothing can find: {lost}"


def join_similar(lake: Lake, run: Run, *, settings: JoinSettings) -> JoinReport:
    """Find the `join.k` rows of right with the highest cosine for each row of left, and replace `join.output` with them.

    A row of left without a usable vector, or without a hit, has one row without rank, whose status and error say why.
    Raises LakeError for tables that cannot be used, and where right has no vector at all.
    """
    output = replaceable(lake.spark, settings.output, setting="join.output", columns=RESULTS)
    left = _given(lake, settings, "left")
    right = _given(lake, settings, "right")
    _require_ids(left, "left", once=True)
    _require_ids(right, "right", once=False)
    run.begin()
    with lake.staging(run.run_id) as staging, clear_task_errors():
        with run.stage("check vectors"):
            dim = _most_common_width(right, settings)
            asked = on_executors(left, unit_batches, dim=dim).write(f"{staging}/left")
            held = on_executors(right, unit_batches, dim=dim).frame
            held = held.withColumn("vector_id", F.monotonically_increasing_id())
            held.write.parquet(f"{staging}/right")
            held = lake.spark.read.parquet(f"{staging}/right")
            lost = _count_statuses(held)
            rows = lost.pop("ok", 0)
        _require_vectors(settings, rows, lost)
        good = held.where("status = 'ok'").select("vector_id", "id", "embedding")
        plan = _plan(settings, left=asked.count(), right=rows, dim=dim)
        spec = IndexSpec(f"join-{run.run_id}", f"{staging}/index", _MODEL, dim, 0, plan)
        manifest, _ = build_whole(good, run, spec, rows=rows)
        manifest.write(spec.root)
        with run.stage("search"):
            replace_table(_search(asked, manifest, settings), output)
            counts = _counts(asked, lake, output)
    run.counts.update(counts | {"right": rows})
    run.counts.update({f"right_{reason}": n for reason, n in lost.items()})
    return JoinReport(output, manifest.spec.plan.factory, counts | {"right": rows}, lost)


def _given(lake: Lake, settings: JoinSettings, side: str) -> DataFrame:
    """GIVEN_VECTORS rows of one side's table."""
    table, id_, vector = (
        getattr(settings, name) for name in (side, f"{side}_id", f"{side}_vector")
    )
    if not table:
        raise LakeError(
            f"join.{side} is not set: give a Delta table (name or path), or .parquet/.jsonl"
        )
    frame = read_raw(lake.spark, table, setting=f"join.{side}")
    kinds: Mapping[str, str] = dict(frame.dtypes)
    shown = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    for setting, column in ((f"join.{side}_id", id_), (f"join.{side}_vector", vector)):
        if column not in kinds:
            raise LakeError(f"{setting}={column} is no column of {table}; it has {shown}")
    if kinds[vector] not in {"array<float>", "array<double>"}:
        raise LakeError(
            f"join.{side}_vector={vector} of {table} is {kinds[vector]}: expected array<float> or array<double>"
        )
    named = F.col(identifier(id_)).cast("string").alias("id")
    return frame.select(
        named, F.col(identifier(vector)).cast("array<float>").alias("embedding")
    ).select(*GIVEN_VECTORS.names)


def _require_ids(rows: DataFrame, side: str, *, once: bool) -> None:
    counted = rows.groupBy("id").agg(F.count(F.lit(1)).alias("rows"))
    bad = counted.where("id IS NULL OR rows > 1" if once else "id IS NULL").orderBy("id").head(5)
    if bad:
        shown = ", ".join(f"{row.id!r} ({row.rows} rows)" for row in bad)
        wanted = "name each row once, and not be null" if once else "not be null"
        raise LakeError(f"join.{side}_id must {wanted}; found {shown}")


def _most_common_width(right: DataFrame, settings: JoinSettings) -> int:
    """Of the vectors that are not null; the smaller one of two that are as common."""
    widths = right.where("size(embedding) > 0").groupBy(F.size("embedding").alias("width")).count()
    row = widths.orderBy(F.desc("count"), "width").first()
    if row is None:
        raise LakeError(
            f"join.right={settings.right} has no vector in {settings.right_vector}: all are null or empty"
        )
    return int(row.width)


def _require_vectors(settings: JoinSettings, rows: int, lost: Mapping[str, int]) -> None:
    found = ", ".join(f"{n:,} {reason}" for reason, n in lost.items())
    if not rows:
        raise LakeError(f"join.right={settings.right} has no vector to be found: {found}")
    if lost:
        log.warning("rows of join.right=%s that nothing can find: %s", settings.right, found)


def _count_statuses(rows: DataFrame) -> dict[str, int]:
    """Rows by status, in a fixed order."""
    found = {row.status: int(row["count"]) for row in rows.groupBy("status").count().collect()}
    return {status: found[status] for status in ("ok", *REASONS) if status in found}


def _plan(settings: JoinSettings, *, left: int, right: int, dim: int) -> IndexPlan:
    """The index that so many rows of right get, to be searched for so many of left."""
    factory: str | None = settings.factory
    if factory == "auto":
        factory = "Flat" if left <= EXACT_LEFT or right <= EXACT_RIGHT else None
    if factory != "Flat":
        return default_plan(right, dim, factory=factory)
    shards = math.ceil(4 * dim * right / SHARD_BYTES)
    return default_plan(right, dim, factory=factory, shards=shards)


def _search(asked: DataFrame, manifest: Manifest, settings: JoinSettings) -> DataFrame:
    """RESULTS of the left table's UNIT_VECTORS."""
    index = manifest.spec
    options = SearchOptions(settings.k, settings.nprobe)
    spec = SearchSpec(index.root, index.model_id, options, min_score=settings.min_score)
    k = F.lit(None).cast("int").alias("k")
    queries = asked.select(F.col("id").alias("query_id"), k, "status", "error", "embedding")
    how = SearchSettings(executor_bytes=settings.executor_bytes)
    found = search_embedded(queries, spec=spec, manifest=manifest, settings=how)
    names = {"query_id": "left_id", "id": "right_id"}
    return found.withColumnsRenamed(names).select(*RESULTS)


def _counts(asked: DataFrame, lake: Lake, output: str) -> dict[str, int]:
    """Rows of left; those without a usable vector, by reason; those without a hit, though they have one; hits."""
    left = _count_statuses(asked)
    row = read_table(lake.spark, output).agg(
        F.count_if(F.col("status") == "no_rows").alias("without_hits"),
        F.count("rank").alias("hits"),
    )
    found = row.first()
    if found is None:
        raise LakeError(f"{output} was replaced by another writer while its rows were counted")
    bad = {f"left_{reason}": n for reason, n in left.items() if reason != "ok"}
    counts = {"left": sum(left.values()), **bad}
    if found.without_hits:
        counts["left_without_hits"] = int(found.without_hits)
    return counts | {"hits": int(found.hits)}
