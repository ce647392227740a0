"""Which rows have no up-to-date vector: the source's contents beside those of the model's vector rows."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.stages.embed.selection import Selection


def newest_contents(contents: DataFrame) -> DataFrame:
    """(id, content_hash, row_hash), one row an id, of (id, content_hash, row_hash, commit_version).

    Of several changes of one id the last commit counts; true duplicates are decided by hash.
    """
    newest = F.struct("commit_version", F.col("content_hash"), F.col("row_hash"))
    latest = contents.groupBy("id").agg(F.max(newest).alias("newest"))
    return latest.select("id", "newest.content_hash", "newest.row_hash")


def last_contents(contents: DataFrame, superseded: DataFrame) -> DataFrame:
    """Of (id, …, commit_version), those that no later commit of the window supersedes, by (id, last): a later micro-batch
    has what the row came to, and a model is not to be paid for what it was between.
    """
    last = superseded.withColumnRenamed("id", "changed_id")
    later = F.col("id").eqNullSafe(F.col("changed_id")) & (F.col("commit_version") < F.col("last"))
    return contents.join(last, later, "left_anti")


def pending_contents(current: DataFrame, stored: DataFrame) -> DataFrame:
    """Of `newest_contents`, those that differ from (id, stored_hash, …) of the vector rows, whose columns they get."""
    both = current.join(stored, "id", "left")
    return both.where("stored_hash IS NULL OR stored_hash <> content_hash")


def first_contents(
    pending: DataFrame, known: DataFrame, selection: Selection, *, limit: int
) -> DataFrame:
    """(content_hash) of pending rows (id, content_hash, rank): those that are `known`, which cost nothing, and of the others
    the first `limit`, each by its first row.
    """
    contents = pending.groupBy("content_hash").agg(
        selection.first_of("rank").alias("rank"), F.min("id").alias("id")
    )
    known = known.select("content_hash").distinct()
    fresh = contents.join(known, "content_hash", "left_anti")
    first = fresh.orderBy(selection.by_rank("rank"), F.col("id")).limit(limit)
    copied = contents.join(known, "content_hash", "left_semi")
    return first.select("content_hash").union(copied.select("content_hash"))


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
