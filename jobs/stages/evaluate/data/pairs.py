"""Training pairs from the judgements of retrieval tasks: every (query, relevant document) of a split."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.stages.evaluate.data.layouts import read_task
from jobs.stages.evaluate.data.tasks import EvaluationTask


def task_pairs(spark: SparkSession, tasks: list[EvaluationTask]) -> DataFrame:
    """Rows of a pairs table (`udfs.training.data.PAIRS_SCHEMA` without negatives) of the tasks' own splits.

    `positive_id` is the smallest id among the query's relevant documents: where queries have the same relevant
    documents, none of these is another one's negative.
    """
    return reduce(lambda one, other: one.unionByName(other), (_pairs(spark, t) for t in tasks))


def _pairs(spark: SparkSession, task: EvaluationTask) -> DataFrame:
    data = read_task(spark, task)
    right = data.judgements.where("score > 0")
    group = F.min("id").over(Window.partitionBy("query_id")).alias("positive_id")
    right = right.select("query_id", "id", group)
    sides = ("text", "image", "image_uri")
    queries = data.queries.select(
        "query_id", "self_id", "instruction", *(F.col(s).alias(f"query_{s}") for s in sides)
    )
    documents = data.documents.select("id", *(F.col(s).alias(f"positive_{s}") for s in sides))
    pairs = right.join(queries, "query_id").join(documents, "id")
    return pairs.where("self_id IS NULL OR self_id <> id").select(
        F.lit(task.pair).alias("direction"),
        "instruction",
        *(f"{side}_{s}" for side in ("query", "positive") for s in sides),
        "positive_id",
    )
