"""Exact rankings: query vectors against the vectors of their corpus, block by block in tasks, then merged."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.stages.embed.run_model import embed_rows
from jobs.stages.evaluate.data.corpora import Suite
from jobs.stages.search.job import QUERIES_PER_TASK
from udfs.recall.exact_rank import RankSpec, rank_block

RANKED = "query_id string, id string, score double, rank int, task string"
BLOCK_BYTES = 128 << 20  # vectors that one task holds at a time


def stage_queries(suite: Suite, *, folder: str) -> DataFrame:
    """(key, task, corpus and the columns QUERIES) of every task's queries, written to `folder` once."""
    frames = [
        task.data.queries.select(
            F.concat_ws("/", F.lit(task.name), "query_id").alias("key"),
            F.lit(task.name).alias("task"),
            F.lit(task.corpus).alias("corpus"),
            "*",
        )
        for task in suite.tasks
    ]
    with clear_task_errors():
        union = functools.reduce(lambda one, other: one.unionByName(other), frames)
        union.write.mode("overwrite").parquet(folder)
    return suite.lake.spark.read.parquet(folder)


def embed_queries(
    suite: Suite, run: Run, queries: DataFrame, *, model: ResolvedModel, folder: str
) -> DataFrame:
    """(key, task, corpus, query_id, self_id, status, error, embedding) of staged queries, embedded into `folder`."""
    wanted = ("key", "text", "image", "image_uri", "instruction")
    inputs = queries.select(*wanted, F.lit(True).alias("is_query"))
    spec = replace(suite.embed_spec(model), notes=f"{folder}-slow-rows")
    tasks = math.ceil(queries.count() / QUERIES_PER_TASK)
    made = embed_rows(run, inputs.repartition(max(tasks, 1)), spec=spec, folder=folder)
    vectors = made.select("key", "status", "error", "embedding")
    named = queries.select("key", "task", "corpus", "query_id", "self_id")
    return named.join(vectors, "key")


def rank_exactly(
    suite: Suite, queries: DataFrame, vectors: DataFrame, *, depth: int, dim: int
) -> DataFrame:
    """RANKED rows of each query's `depth` best documents of its corpus, from rank 1.

    By inner product of L2-normalised vectors, exactly; a query's own row (self_id) is left out; equal scores by
    smaller vector_id.
    """
    documents = vectors.where("status = 'ok'")
    block_rows = max(1, BLOCK_BYTES // (4 * dim))
    sizes = documents.groupBy("corpus").count()
    blocks = sizes.select("corpus", F.ceil(F.col("count") / block_rows).cast("int").alias("blocks"))
    blocks = F.broadcast(blocks)
    block = F.pmod(F.xxhash64("vector_id"), F.col("blocks")).cast("int").alias("block")
    placed = documents.join(blocks, "corpus").select("corpus", block, "vector_id", "embedding")
    asked = queries.where("status = 'ok'").join(blocks, "corpus")
    every = F.explode(F.sequence(F.lit(0), F.col("blocks") - 1)).alias("block")
    copied = asked.select("corpus", every, "task", "query_id", "embedding")
    keys = ("corpus", "block")
    groups = copied.groupBy(*keys).cogroup(placed.groupBy(*keys))
    found = on_executors(groups, rank_block, spec=RankSpec(depth + 1, dim)).frame
    hits = found.join(documents.select("vector_id", "id"), "vector_id")
    hits = hits.join(queries.select("task", "query_id", "self_id"), ["task", "query_id"])
    return best_hits(hits, depth=depth)


def best_hits(hits: DataFrame, *, depth: int) -> DataFrame:
    """RANKED rows of hits (task, query_id, self_id, id, vector_id, score) that may be one too many for their own row."""
    best = Window.partitionBy("task", "query_id").orderBy(F.desc("score"), "vector_id")
    others = hits.where("self_id IS NULL OR self_id <> id")
    numbered = others.withColumn("rank", F.row_number().over(best)).where(F.col("rank") <= depth)
    return numbered.select("query_id", "id", "score", "rank", "task")
