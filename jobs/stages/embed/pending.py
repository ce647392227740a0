"""Which rows have no up-to-date vector: the source's contents beside those of the model's vector rows."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def newest_contents(contents: DataFrame) -> DataFrame:
    """(id, content_hash, row_hash), one row an id, of (id, content_hash, row_hash, commit_version).

    Of several changes of one id the last commit counts; true duplicates are decided by hash.
    """
    newest = F.struct("commit_version", F.col("content_hash"), F.col("row_hash"))
    latest = contents.groupBy("id").agg(F.max(newest).alias("newest"))
    return latest.select("id", "newest.content_hash", "newest.row_hash")


def one_a_content(rows: DataFrame) -> DataFrame:
    """(id, row_hash, content_hash): one of the rows (id, content_hash, row_hash) of each content."""
    chosen = rows.groupBy("content_hash").agg(F.min(F.struct("id", "row_hash")).alias("row"))
    return chosen.select("row.id", "row.row_hash", "content_hash")


def model_inputs(rows: DataFrame, *, key: str = "content_hash") -> DataFrame:
    """What `udfs.embed.batches.embed_batches` reads, of rows with the column `key`, text, image and image_uri."""
    return rows.select(
        F.col(key).alias("key"),
        "text",
        "image",
        "image_uri",
        F.lit(None).cast("string").alias("instruction"),
        F.lit(False).alias("is_query"),
    )
