"""Step 4, what the embedder judges: whether a picture fits its caption, and whether a query finds its positive."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.task_errors import clear_task_errors
from jobs.settings.synthesize import SynthesizeSettings
from jobs.stages.synthesize.embedder import Embedder
from jobs.stages.synthesize.rejects import Rejects


def drop_same_pictures(rejects: Rejects, pairs: DataFrame) -> DataFrame:
    """Pairs whose query does not show the very picture that it shall find."""
    same = F.col("query_image_uri") == F.col("positive_image_uri")
    rejects.add("pair", pairs.where(same).withColumn("reason", F.lit("same_picture")))
    return pairs.where(~F.coalesce(same, F.lit(False)))


def score_pictures(
    rejects: Rejects, embedder: Embedder, pairs: DataFrame, settings: SynthesizeSettings
) -> DataFrame:
    """The pairs with the picture_score of those that have a caption; without those that score too low or not at all."""
    captioned = pairs.where("caption IS NOT NULL")
    asked = captioned.select("caption", F.col("query_image_uri").alias("image_uri"))
    scores = embedder.fit(asked, table=settings.pictures or settings.passages)
    scores = scores.withColumnRenamed("image_uri", "query_image_uri")
    scored = pairs.join(scores, ["caption", "query_image_uri"], "left")
    unscored = F.col("caption").isNotNull() & F.col("picture_score").isNull()
    rejects.add("pair", scored.where(unscored).withColumn("reason", F.lit("bad_picture")))
    least = settings.picture_score
    low = F.col("picture_score") < least if least is not None else F.lit(False)
    low = F.coalesce(low, F.lit(False))
    told = F.format_string("%.3f", "picture_score")
    dropped = scored.where(low).withColumns({"reason": F.lit("picture_score"), "detail": told})
    rejects.add("pair", dropped)
    return scored.where(~unscored & ~low)


def require_consistency(
    rejects: Rejects, embedder: Embedder, pairs: DataFrame, settings: SynthesizeSettings
) -> DataFrame:
    """The pairs with `rank`, the place of a right answer among the best positives of the query; without those beyond."""
    table, most = settings.passages, settings.consistent or 0
    folder = f"{embedder.staging}/positives"
    documents = pairs.select(
        F.col("positive_key").alias("id"),
        F.col("positive_text").alias("text"),
        F.lit(None).cast("binary").alias("image"),
        F.col("positive_image_uri").alias("image_uri"),
    ).dropDuplicates(["id"])
    queries = pairs.select(
        "query_id",
        F.col("query_text").alias("text"),
        F.col("query_image_uri").alias("image_uri"),
        "instruction",
    ).dropDuplicates(["query_id"])
    with clear_task_errors():
        documents.write.mode("overwrite").parquet(folder)
    documents = embedder.lake.spark.read.parquet(folder)
    found = embedder.search(documents, queries, name="positives", table=table, depth=most)
    right = pairs.select(F.col("positive_key").alias("key"), "positive_id").distinct()
    hits = found.join(right, "key").groupBy("query_id", "positive_id")
    ranks = hits.agg(F.min("rank").alias("rank"))
    ranked = pairs.join(ranks, ["query_id", "positive_id"], "left")
    lost = ranked.where("rank IS NULL").withColumns(
        {"reason": F.lit("inconsistent"), "detail": F.lit(f"not among the {most} best positives")}
    )
    rejects.add("pair", lost)
    return ranked.where("rank IS NOT NULL")
