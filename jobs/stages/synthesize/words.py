"""Steps 1 and 2: a query and its answer from each passage, and the query once more without the name of its entity."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.stages.synthesize.asking import Asking
from jobs.stages.synthesize.rejects import Rejects
from udfs.synthesis.duplicates import DuplicatesSpec, band_batches
from udfs.synthesis.rules import JUDGE_INPUT, judge_batches
from udfs.synthesis.spec import JudgeSpec, Step


def make_queries(asking: Asking, rejects: Rejects, passages: DataFrame) -> DataFrame:
    """(passage_id, query, answer, query_request) of the passages that a good query was made for; near-duplicates once."""
    empty = passages.where("text IS NULL").withColumn("reason", F.lit("no_text"))
    rejects.add("query", empty)
    asked = passages.where("text IS NOT NULL").select("passage_id", "title", "text", "domain")
    judged = judge(asking, rejects, "query", asked)
    made = judged.select(
        "passage_id", "query", "answer", F.col("request_id").alias("query_request"), "domain"
    )
    return _drop_duplicates(asking, rejects, made).drop("domain")


def make_entities(
    asking: Asking, rejects: Rejects, passages: DataFrame, queries: DataFrame
) -> DataFrame:
    """(passage_id, entity, named_domain, pictured_query, entity_request) where the rewritten query needs a picture."""
    asked = queries.join(passages.select("passage_id", "title", "text", "domain"), "passage_id")
    judged = judge(asking, rejects, "entity", asked)
    return judged.select(
        "passage_id",
        "entity",
        F.col("named_domain"),
        F.col("query").alias("pictured_query"),
        F.col("request_id").alias("entity_request"),
    )


def make_captions(
    asking: Asking, rejects: Rejects, passages: DataFrame, entities: DataFrame
) -> DataFrame:
    """(passage_id, caption, caption_request): what a picture model shall draw of each entity."""
    told = passages.select("passage_id", "title", "text")
    judged = judge(asking, rejects, "caption", entities.join(told, "passage_id"))
    return judged.select("passage_id", "caption", F.col("request_id").alias("caption_request"))


def judge(asking: Asking, rejects: Rejects, step: Step, rows: DataFrame) -> DataFrame:
    """Ask a step for each row, and keep the answers that pass the rules: the row's domain, and what JUDGED has.

    The domain that an answer names is `named_domain`. The others are rejects.
    """
    settings = asking.settings
    found = asking.ask(step, rows)
    told = [c for c in ("title", "text", "query") if c in rows.columns]
    inputs = found.join(rows.select("passage_id", "domain", *told), "passage_id")
    given = (_given(inputs, name) for name in JUDGE_INPUT.names)
    spec = JudgeSpec(step, tuple(settings.domains), settings.grounded)
    judged = on_executors(inputs.select(*given), judge_batches, spec=spec).write(
        f"{asking.staging}/{step}/judged"
    )
    judged = judged.withColumnRenamed("domain", "named_domain")
    judged = judged.join(rows.select("passage_id", "domain"), "passage_id")
    rejects.add(step, judged.where("reason IS NOT NULL"))
    return judged.where("reason IS NULL")


def limit_domains(rejects: Rejects, rows: DataFrame, *, most: int | None, seed: int) -> DataFrame:
    """At most so many passages of each domain, chosen by a hash of their ids; of no domain all."""
    if most is None:
        return rows
    order = F.xxhash64("passage_id", F.lit(seed))
    place = F.row_number().over(Window.partitionBy("domain").orderBy(order, "passage_id"))
    placed = rows.withColumn("place", place)
    over = (F.col("place") > most) & F.col("domain").isNotNull()
    rejects.add("domain", placed.where(over).withColumn("reason", F.lit("over_quota")))
    return placed.where(~over).drop("place")


def _drop_duplicates(asking: Asking, rejects: Rejects, queries: DataFrame) -> DataFrame:
    """Queries of which no other one, with a smaller key, has nearly the same words."""
    least = asking.settings.duplicates
    if least is None:
        return queries
    folder = f"{asking.staging}/duplicates"
    with clear_task_errors():
        queries.write.mode("overwrite").parquet(f"{folder}/queries")
    queries = asking.lake.spark.read.parquet(f"{folder}/queries")
    inputs = queries.select(F.col("passage_id").alias("key"), F.col("query").alias("text"))
    bands = on_executors(inputs, band_batches, spec=DuplicatesSpec()).write(f"{folder}/bands")
    first = F.min_by(F.struct("key", "words"), "key").over(Window.partitionBy("band"))
    compared = bands.withColumn("first", first).where("first.key < key")
    shared = F.size(F.array_intersect("words", "first.words"))
    alike = shared / F.size(F.array_union("words", "first.words"))
    doubles = compared.where(alike >= least).groupBy("key").agg(F.min("first.key").alias("of"))
    doubles = doubles.withColumnRenamed("key", "passage_id")
    dropped = queries.join(doubles, "passage_id").select(
        "passage_id",
        "domain",
        F.lit("duplicate").alias("reason"),
        F.concat(F.lit("as of passage "), F.col("of"), F.lit(": "), F.col("query")).alias("detail"),
    )
    rejects.add("query", dropped)
    return queries.join(doubles, "passage_id", "left_anti")


def _given(rows: DataFrame, name: str) -> Column:
    have = name in rows.columns
    return (F.col(name) if have else F.lit(None)).cast("string").alias(name)
