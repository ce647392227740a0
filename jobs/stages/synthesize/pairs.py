"""From queries, pictures and passages to rows of a pairs table, each with what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.stages.mine.pairs import COLUMNS
from udfs.drawing.training_rows import INSTRUCTIONS as DRAWN
from udfs.training.data import NOTES

INSTRUCTIONS = {
    "t2t": "Find a passage that answers the question.",
    "t2it": "Find a passage with a picture that answers the question.",
    "it2t": "Find a passage that answers the question about the picture.",
    "it2it": "Find a passage with a picture that answers the question about the picture.",
    "it2i": DRAWN["it2i"],
}


@dataclass(frozen=True)
class Parts:
    """What pairs of passages are put together from.

    `texts`: (passage_id, text, domain, query, query_request), with pictured_query and entity_request where there are;
    `own`: (passage_id, own_image); `entities`: as `find_pictures` gives them, or None.
    """

    texts: DataFrame
    own: DataFrame
    entities: DataFrame | None


def passage_pairs(parts: Parts, directions: list[str], told: Mapping[str, str]) -> DataFrame | None:
    """The pairs of the directions that the passages have the pictures for; None where no direction is asked for."""
    rows = parts.texts.join(parts.own, "passage_id", "left")
    if parts.entities is not None:
        rows = rows.join(parts.entities, "passage_id", "left")
    made = []
    for direction in directions:
        query, _, positive = direction.partition("2")
        fused, pictured = query == "it", positive == "it"
        if fused and parts.entities is None:
            continue
        some = rows.where("own_image IS NOT NULL") if pictured else rows
        some = some.where("entity_image IS NOT NULL") if fused else some
        none = F.lit(None).cast("string")
        requests = F.array("query_request")
        if fused:
            requests = F.concat(F.array("query_request", "entity_request"), "picture_requests")
        made.append(
            some.select(
                F.lit(direction).alias("direction"),
                F.lit(told.get(direction, INSTRUCTIONS[direction])).alias("instruction"),
                F.col("pictured_query" if fused else "query").alias("query_text"),
                (F.col("entity_image") if fused else none).alias("query_image_uri"),
                F.col("text").alias("positive_text"),
                (F.col("own_image") if pictured else none).alias("positive_image_uri"),
                F.col("passage_id").alias("positive_id"),
                "passage_id",
                "domain",
                (F.col("caption") if fused else none).alias("caption"),
                (F.col("picture_id") if fused else none).alias("picture_id"),
                requests.alias("requests"),
            )
        )
    return reduce(lambda one, other: one.unionByName(other), made) if made else None


def sibling_pairs(siblings: DataFrame, own: DataFrame, told: Mapping[str, str]) -> DataFrame:
    """Picture + change to picture, of `siblings` (see there) whose two pictures can be read."""
    none = F.lit(None).cast("string")
    target = own.select(
        F.col("passage_id").alias("target_id"), F.col("own_image").alias("target_image")
    )
    rows = siblings.join(own, "passage_id").join(target, "target_id")
    rows = rows.where("own_image IS NOT NULL AND target_image IS NOT NULL")
    return rows.select(
        F.lit("it2i").alias("direction"),
        F.lit(told.get("it2i", INSTRUCTIONS["it2i"])).alias("instruction"),
        F.col("change").alias("query_text"),
        F.col("own_image").alias("query_image_uri"),
        none.alias("positive_text"),
        F.col("target_image").alias("positive_image_uri"),
        F.concat(F.lit("product "), "product").alias("positive_id"),
        "passage_id",
        "domain",
        none.alias("caption"),
        F.col("target_id").alias("picture_id"),
        "requests",
    )


def with_keys(pairs: DataFrame) -> DataFrame:
    """Pairs named by their content, each once: pair_id, query_id (instruction included), positive_key."""

    def key(*names: str) -> Column:
        return F.sha2(F.concat_ws("\u001f", *(F.coalesce(n, F.lit("")) for n in names)), 256)

    keyed = pairs.withColumns(
        {
            "query_id": key("query_text", "query_image_uri", "instruction"),
            "positive_key": key("positive_text", "positive_image_uri"),
        }
    )
    named = keyed.withColumn("pair_id", key("direction", "query_id", "positive_key", "positive_id"))
    return named.dropDuplicates(["pair_id"])


def with_lineage(lake: Lake, run: Run, pairs: DataFrame) -> DataFrame:
    """The columns of a pairs table, and NOTES: the domain, and everything that the pair was made from.

    `pairs`: rows of `with_keys` with picture_score and rank.
    """
    answers = lake.read("synthesis_answers").select(
        "request_id",
        F.struct("step", "request_id", "model_name", "prompt_version", "seed", "raw", "cost").alias(
            "answer"
        ),
    )
    asked = pairs.select("pair_id", F.explode("requests").alias("request_id"))
    found = asked.join(answers, "request_id").groupBy("pair_id")
    answered = found.agg(F.sort_array(F.collect_list("answer")).alias("answers"))
    rows = pairs.join(answered, "pair_id", "left")
    cost = "aggregate(coalesce(answers, array()), 0D, (sum, answer) -> sum + answer.cost)"
    lineage = F.struct(
        "pair_id",
        "passage_id",
        "picture_id",
        "caption",
        "picture_score",
        F.col("rank").alias("positive_rank"),
        F.expr(cost).alias("cost"),
        F.lit(run.run_id).alias("run_id"),
        "answers",
    )
    return rows.select(
        *(
            F.col(name) if name in rows.columns else F.lit(None).cast(_kind(name)).alias(name)
            for name in COLUMNS
        ),
        "domain",
        lineage.alias("lineage"),
    ).select(*COLUMNS, *NOTES)


def _kind(name: str) -> str:
    return "binary" if name.endswith("_image") else "string"
