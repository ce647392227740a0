"""Batch search where the shards do not fit one executor: queries × parts of the index, merged by query."""

from __future__ import annotations

import logging

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.settings.search import SearchSettings
from udfs.index.manifest import Manifest
from udfs.search.scatter import MERGE_INPUT, PART_INPUT, merge_batches, search_part_batches
from udfs.specs import SearchSpec

log = logging.getLogger("gme_lake")


def shard_parts(manifest: Manifest, settings: SearchSettings) -> list[list[int]]:
    """Numbers of the shards that are opened together; a single part needs no scatter.

    `search.scatter` true: each shard by itself; false: all together; auto: in order, as many together as
    `search.executor_bytes` allow, counting every file of a shard but its full text: its codes in memory, the rest mapped.
    """
    shards = manifest.all_shards(manifest.spec.root)
    if settings.scatter is False:
        return [list(range(len(shards)))]
    budget = settings.executor_bytes if settings.scatter == "auto" else 0
    parts: list[list[int]] = []
    room = 0
    for number, (_, shard) in enumerate(shards):
        size = sum(file.bytes for file in shard.files if file != shard.full_text)
        if size > budget and settings.scatter == "auto":
            log.warning(
                "shard %d of index %s has %d bytes, more than executor_bytes=%d; it is opened all the same: "
                "build the index with more shards (index.shards)",
                number,
                manifest.spec.index_id,
                size,
                budget,
            )
        if not parts or size > room:
            parts.append([])
            room = budget
        parts[-1].append(number)
        room -= size
    return parts


def search_scattered(
    embedded: DataFrame, *, spec: SearchSpec, parts: list[list[int]], blocks: int
) -> DataFrame:
    """SEARCH_OUTPUT rows of SEARCH_INPUT queries, searched in `blocks` tasks a part.

    Rows that are new since the index was built are one more part. What is shuffled is k hits for each query and part.
    """
    numbered: list[tuple[int, list[int] | None]] = list(enumerate(parts))
    if spec.fresh_root is not None:
        numbered.append((len(parts), None))
    named = embedded.sparkSession.createDataFrame(numbered, "part int, shards array<int>")
    block = F.pmod(F.xxhash64("query_id"), F.lit(blocks))
    rows = embedded.crossJoin(F.broadcast(named))
    rows = rows.withColumn("cell", (F.col("part") * blocks + block).cast("int"))
    cells = len(numbered) * blocks
    if hasattr(rows, "repartitionById"):
        placed = rows.repartitionById(cells, "cell")
    else:
        placed = rows.repartition(cells, "cell")
    # Without repartitionById two parts may share a partition; in order, each is opened once.
    ordered = placed.sortWithinPartitions("part").select(*PART_INPUT.names)
    found = on_executors(ordered, search_part_batches, spec=spec).frame
    same = [F.first(name).alias(name) for name in ("k", "status", "error")]
    grouped = found.groupBy("query_id").agg(
        *same, F.bool_and("complete").alias("complete"), F.collect_list("hits").alias("parts")
    )
    return on_executors(grouped.select(*MERGE_INPUT.names), merge_batches, spec=spec).frame
