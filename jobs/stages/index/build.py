"""The Spark side of a build: the sample goes to one task, every shard's rows to one task; files do not pass the driver."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import pydantic
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.runs import Run
from udfs.errors import IndexDataError
from udfs.index.build import ShardsSpec, build_batches, train_batches
from udfs.index.manifest import ShardRecord
from udfs.index.resume import QuantizerRecord, find_quantizer, find_shard
from udfs.search.check import CheckSpec, check_batches
from udfs.specs import IndexPlan, IndexSpec

log = logging.getLogger("gme_lake")

CHECKED_VECTORS = 50
_BLOCK_BITS = 10
_INT64_VALUES = 2**64


def train_in_task(vectors: DataFrame, run: Run, spec: IndexSpec, *, rows: int) -> QuantizerRecord:
    """Train on a hash sample of the `rows` of `vectors` in one task, unless an earlier build of this index has."""
    if kept := find_quantizer(spec.root):
        log.info("index %s: quantizer is there already, kept", spec.index_id)
        return kept
    sample = _sample(vectors, spec.plan, rows=rows).select("embedding")
    missing = IndexDataError(f"index {spec.index_id}: training found no rows; run it again")
    row = on_executors(sample, train_batches, spec=spec).one_row(missing)
    run.add_seconds("tasks.train", row.seconds)
    run.counts["train_peak_bytes"] = max(run.counts["train_peak_bytes"], row.peak_bytes)
    return pydantic.TypeAdapter(QuantizerRecord).validate_json(row.record)


def build_shards(
    vectors: DataFrame, run: Run, build: ShardsSpec, *, rows: int
) -> tuple[tuple[ShardRecord, ...], list[int]]:
    """Records of all shards by number, and the numbers of those kept from an earlier build.

    Raises IndexDataError where the shards together do not hold each of the `rows` of `vectors` once.
    """
    spec = build.index
    numbers = range(spec.plan.shards)
    sha = build.quantizer.sha256
    found = {n: find_shard(spec.root, n, quantizer_sha256=sha) for n in numbers}
    records = {n: record for n, record in found.items() if record is not None}
    kept = sorted(records)
    pending = [n for n in numbers if n not in records]
    if kept:
        log.info("index %s: kept shards %s, to build %s", spec.index_id, kept, pending)
    if pending:
        placed = by_shard(vectors, spec, shards=pending)
        for row in on_executors(placed, build_batches, spec=build).rows():
            records[row.shard] = pydantic.TypeAdapter(ShardRecord).validate_json(row.record)
            run.add_seconds("tasks.encode", row.seconds)
            run.counts["encode_peak_bytes"] = max(run.counts["encode_peak_bytes"], row.peak_bytes)
    held = sum(record.rows for record in records.values())
    if sorted(records) != list(numbers) or held != rows:
        raise IndexDataError(
            f"index {spec.index_id}: shards {sorted(records)} of {spec.plan.shards} hold {held} rows, but version "
            f"{spec.vectors_version} of vectors has {rows} for them; nothing was committed. Remove {spec.root} and "
            "build again"
        )
    return tuple(records[n] for n in numbers), kept


def check_shards(vectors: DataFrame, spec: CheckSpec) -> int:
    """Check every shard against its checksums and sampled stored vectors; returns how many vectors were searched."""
    index = spec.build.index
    # Ids first: that reads one narrow column. Ids near each other: they stand in few row groups, so that the vectors
    # of the whole table are not read again; they are of every shard all the same.
    seed = F.lit(index.plan.seed + 1)
    block = F.xxhash64(F.shiftright("vector_id", _BLOCK_BITS), seed)
    order = (block, F.xxhash64("vector_id", seed), "vector_id")
    names = vectors.select("vector_id").orderBy(*order).head(CHECKED_VECTORS)
    sampled = vectors.where(F.col("vector_id").isin([row.vector_id for row in names]))
    asked = by_shard(sampled, index, shards=range(index.plan.shards))
    try:
        checked = on_executors(asked, check_batches, spec=spec).rows()
    except IndexDataError as error:
        raise IndexDataError(
            f"{error}. The index was not committed; remove {index.root} and build it again"
        ) from error
    return sum(row.checked for row in checked)


def _sample(vectors: DataFrame, plan: IndexPlan, *, rows: int) -> DataFrame:
    """A hash sample of at least plan.train_rows rows in one partition, in an order that any reader gives again."""
    if plan.train_rows == 0:  # a task must see a row to run at all
        return vectors.limit(1)
    # Six standard deviations more than wanted, so that chance never leaves too few; the task takes the first.
    share = (plan.train_rows + 6 * math.sqrt(plan.train_rows) + 16) / rows
    hashed = vectors.withColumn("h", F.xxhash64("vector_id", F.lit(plan.seed)))
    if share < 1:
        hashed = hashed.where(F.col("h") < int(share * _INT64_VALUES) - _INT64_VALUES // 2)
    # xxhash64 of one bigint never collides; one sorting column of eight bytes is sorted by radix.
    return hashed.repartition(1).sortWithinPartitions("h")


def by_shard(rows: DataFrame, spec: IndexSpec, *, shards: Sequence[int]) -> DataFrame:
    """Rows with a vector_id, such as SHARD_INPUT's, of `shards`, with `shard` before their columns.

    Each shard is in one partition and together, with a row without vector_id for each.
    """
    count = spec.plan.shards
    shard = F.pmod(F.xxhash64("vector_id"), F.lit(count)).cast("int")
    wanted = F.col("shard").isin(list(shards)) if len(shards) < count else F.lit(True)
    rows = rows.select(shard.alias("shard"), *rows.columns).where(wanted)
    marks = rows.sparkSession.range(0, count, 1, 1).selectExpr("CAST(id AS int) AS shard")
    rows = rows.unionByName(marks.where(wanted), allowMissingColumns=True)
    # In order of vector_id every attempt of a task writes the same bytes: a second one, started by speculation
    # or left over from a lost executor, cannot mix its files with those of the first.
    if hasattr(rows, "repartitionById"):  # a partition is a shard; one sorting column: radix sort
        return rows.repartitionById(count, "shard").sortWithinPartitions("vector_id")
    return rows.repartition(count, "shard").sortWithinPartitions("shard", "vector_id")
