"""Exact copies of a content: paired without a search, in which few rows stand for all of them."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.runs import Run
from udfs.search.neighbours import Pairing
from udfs.search.row_files import write_vector_ids
from udfs.specs import SearchSpec


def find_copies(
    run: Run, rows: DataFrame, spec: SearchSpec, *, pairing: Pairing, staging: str
) -> tuple[SearchSpec, DataFrame]:
    """`spec` that asks and finds only rows that stand for their content, and pairs (id_a, id_b, score) of exact copies.

    Copies would be each other's k nearest, and hide what else is near. `rows` are (vector_id, id, content_hash), with
    another pairing than "all" also the value of their group. The row of the smallest id stands for a content; within
    groups, for it in each group; across, a second one, the smallest of another value. A copy's pair is the smallest
    copy that it may be paired with.
    """
    firsts = _firsts(rows, pairing)
    firsts.write.mode("overwrite").parquet(f"{staging}/firsts")
    firsts = rows.sparkSession.read.parquet(f"{staging}/firsts")
    pairs = _pairs(rows, firsts, pairing)
    run.counts["exact_copies"] = pairs.count()
    if firsts.count() < rows.count():
        path = f"{staging}/firsts.int64"
        named = firsts.select("first.vector_id").repartition(1)
        on_executors(named, write_vector_ids, path=path).rows()
        spec = replace(spec, allowed=path)
    return spec, pairs.withColumn("score", F.lit(1.0))


def _firsts(rows: DataFrame, pairing: Pairing) -> DataFrame:
    """(content_hash, first: id and vector_id) of rows that stand for a content; with their value where there are groups."""
    first = F.min(F.struct("id", "vector_id")).alias("first")
    counted = F.count(F.lit(1)).alias("rows")
    if pairing == "all":
        return rows.groupBy("content_hash").agg(first, counted)
    if pairing == "within":
        return rows.where("value IS NOT NULL").groupBy("content_hash", "value").agg(first, counted)
    # A row without a value has one of its own.
    lone = F.when(F.col("value").isNull(), F.col("id")).alias("lone")
    smallest = rows.groupBy("content_hash", "value", lone).agg(first)
    order = Window.partitionBy("content_hash").orderBy("first")
    return smallest.withColumn("place", F.row_number().over(order)).where("place <= 2")


def _pairs(rows: DataFrame, firsts: DataFrame, pairing: Pairing) -> DataFrame:
    """(id_a, id_b) of each copy and the smallest copy that it may be paired with, each pair once."""
    if pairing != "across":
        keys = ["content_hash"] if pairing == "all" else ["content_hash", "value"]
        copies = rows.join(firsts.where("rows > 1"), keys).where("id <> first.id")
        return copies.select(F.col("first.id").alias("id_a"), F.col("id").alias("id_b"))
    second = firsts.where("place = 2").select("content_hash", F.col("first.id").alias("second"))
    first = firsts.where("place = 1").select(
        "content_hash", F.col("first.id").alias("smallest"), F.col("value").alias("of")
    )
    both = first.join(second, "content_hash")
    # The smallest itself is in the pair of the second. Rows of its value are the second's.
    copies = rows.join(both, "content_hash").where("id <> smallest")
    mate = F.when(F.col("value") == F.col("of"), F.col("second")).otherwise(F.col("smallest"))
    return copies.select(F.least("id", mate).alias("id_a"), F.greatest("id", mate).alias("id_b"))
