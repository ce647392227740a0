"""Step 3: a picture of each entity, found in a table by the registered embedder or made by a picture model."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.stages.synthesize.asking import Asking, pictures_folder
from jobs.stages.synthesize.embedder import Embedder
from jobs.stages.synthesize.passages import PictureRows
from jobs.stages.synthesize.rejects import Rejects
from jobs.stages.synthesize.words import make_captions
from udfs.drawing.training_rows import INSTRUCTIONS

_LOOKED_AT = 4  # pictures of an entity: the best may be the passage's own
# (passage_id, picture_id, entity_image, caption, requests): what both ways give.


def find_pictures(
    asking: Asking,
    rejects: Rejects,
    embedder: Embedder,
    entities: DataFrame,
    pictures: PictureRows,
) -> DataFrame:
    """The best picture of each entity in the table that is not the passage's own row."""
    settings = asking.settings
    by_picture = settings.match == "picture"
    none = F.lit(None)
    documents = pictures.rows.select(
        "id",
        (none.cast("string") if by_picture else F.col("caption")).alias("text"),
        (F.col("image") if by_picture else none.cast("binary")).alias("image"),
        (F.col("image_uri") if by_picture else none.cast("string")).alias("image_uri"),
    )
    named = entities.withColumn("query_id", F.sha2("entity", 256))
    queries = named.select("query_id", F.col("entity").alias("text")).distinct()
    queries = queries.withColumns(
        {"image_uri": none.cast("string"), "instruction": F.lit(INSTRUCTIONS["t2i"])}
    )
    found = embedder.search(
        documents, queries, name="pictures", table=pictures.table, depth=_LOOKED_AT
    )
    own = settings.pictures == settings.passages
    best = named.select("passage_id", "entity", "domain", "query_id").join(found, "query_id")
    best = best.where(F.col("key") != F.col("passage_id")) if own else best
    best = best.groupBy("passage_id", "entity", "domain").agg(
        F.min_by(F.col("key"), F.struct("rank", "key")).alias("id")
    )
    files = pictures.files(
        best, folder=pictures_folder(asking.lake), staging=f"{asking.staging}/found-pictures"
    )
    captions = pictures.rows.select("id", "caption")
    made = best.join(files, "id", "left").join(captions, "id", "left")
    bad = made.where("image_uri IS NULL").select(
        "passage_id", "domain", F.lit("bad_picture").alias("reason"), F.col("error").alias("detail")
    )
    rejects.add("picture", bad)
    lost = entities.join(best.select("passage_id"), "passage_id", "left_anti")
    rejects.add("picture", lost.withColumn("reason", F.lit("no_picture_found")))
    return made.where("image_uri IS NOT NULL").select(
        "passage_id",
        F.col("id").alias("picture_id"),
        F.col("image_uri").alias("entity_image"),
        F.coalesce("caption", "entity").alias("caption"),
        F.array().cast("array<string>").alias("picture_requests"),
    )


def draw_pictures(
    asking: Asking, rejects: Rejects, passages: DataFrame, entities: DataFrame
) -> DataFrame:
    """A picture of each entity by the picture model, from a caption by the language model."""
    captions = make_captions(asking, rejects, passages, entities)
    asked = captions.select("passage_id", F.col("caption").alias("text"))
    made = asking.ask("picture", asked).join(captions, "passage_id")
    made = made.join(entities.select("passage_id", "domain"), "passage_id")
    bad = made.where("picture IS NULL").select(
        "passage_id",
        "domain",
        F.coalesce("status", F.lit("no_answer")).alias("reason"),
        F.col("error").alias("detail"),
        "request_id",
    )
    rejects.add("picture", bad)
    return made.where("picture IS NOT NULL").select(
        "passage_id",
        F.lit(None).cast("string").alias("picture_id"),
        F.col("picture").alias("entity_image"),
        "caption",
        F.array("caption_request", "request_id").alias("picture_requests"),
    )
