"""From candidates to the negatives of every pair, and the table of pairs with them."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.stages.mine.pairs import COLUMNS
from udfs.training.data import NOTES
from udfs.training.negatives import NEGATIVES_INPUT, NegativesSpec, choose_batches

_GUARDS = ("positive", "own", "skipped", "too_high", "alike")


def chosen_negatives(
    pairs: DataFrame, found: DataFrame, scores: DataFrame, *, spec: NegativesSpec, folder: str
) -> DataFrame:
    """NEGATIVES_OUTPUT of every pair, written to `folder` once.

    `found`: (query_id, rank, key, score); `scores`: (pair, status, positive_score).
    """
    ids = right_ids(pairs)
    one = F.struct("rank", "key", "score", "ids")
    lists = found.join(ids, "key", "left").groupBy("query_id")
    best = lists.agg(F.array_sort(F.collect_list(one)).alias("found"))
    right = pairs.groupBy("query_key").agg(
        F.collect_set("positive_key").alias("right_keys"),
        F.collect_set("positive_id").alias("right_ids"),
    )
    rows = pairs.select("pair", "query_id", "query_key", "own_key").join(scores, "pair")
    rows = rows.join(right, "query_key").join(best, "query_id", "left")
    rows = rows.join(ids.toDF("own_key", "own_ids"), "own_key", "left")
    return on_executors(rows.select(*NEGATIVES_INPUT.names), choose_batches, spec=spec).write(
        folder
    )


def right_ids(pairs: DataFrame) -> DataFrame:
    """(key, ids): the positive_ids of all pairs that a content is the positive of."""
    by_key = pairs.groupBy(F.col("positive_key").alias("key"))
    return by_key.agg(F.collect_set("positive_id").alias("ids"))


def with_negatives(pairs: DataFrame, chosen: DataFrame, candidates: DataFrame) -> DataFrame:
    """The pairs as `train_embedder` takes them, their notes kept, with the contents of the chosen negatives.

    `candidates`: (key, text, image, image_uri). A negative that is another pair's positive has that one's
    positive_id as `id` (the smallest, where there are several), so that it is no negative of that pair in a step.
    """
    own = pairs.where("own_key IS NOT NULL").select(
        F.col("own_key").alias("key"),
        F.lit(None).cast("string").alias("text"),
        F.col("query_image").alias("image"),
        F.col("query_image_uri").alias("image_uri"),
    )
    shown = (
        candidates.unionByName(own).dropDuplicates(["key"]).join(right_ids(pairs), "key", "left")
    )
    negative = F.struct("text", "image", "image_uri", F.array_min("ids").alias("id"))
    shown = shown.select("key", negative.alias("negative"))
    placed = chosen.select("pair", F.posexplode("keys").alias("at", "key")).join(shown, "key")
    one = F.struct("at", "negative").alias("one")
    grouped = placed.select("pair", one).groupBy("pair")
    lists = grouped.agg(F.array_sort(F.collect_list("one")).getField("negative").alias("negatives"))
    notes = [name for name in NOTES if name in pairs.columns]
    return pairs.join(lists, "pair", "left").select(*COLUMNS, *notes, "negatives")


def count_outcomes(chosen: DataFrame) -> dict[str, int]:
    """Pairs, why some have no negatives, negatives, and rows that each guard left out."""

    def total(column: Column) -> Column:
        return F.coalesce(F.sum(column), F.lit(0))

    row = chosen.agg(
        F.count(F.lit(1)).alias("pairs"),
        *(
            F.count_if(F.col("status") == s).alias(s)
            for s in ("query_rejected", "positive_rejected")
        ),
        F.count_if("fewer").alias("fewer_than_k"),
        total(F.size("keys")).alias("negatives"),
        *(total(F.col(name)).alias(f"left_out_{name}") for name in _GUARDS),
    ).first()
    return {name: int(count) for name, count in row.asDict().items()} if row else {}
