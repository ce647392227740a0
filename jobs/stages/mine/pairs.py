"""The pairs that negatives are mined for: read at a pinned version, every content in them named by its hash."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.lake.lake import Lake, absolute, table_given, table_version
from jobs.lake.runs import Run
from jobs.settings.evaluate import EvaluateSettings
from jobs.settings.train import MineSettings
from jobs.stages.evaluate.data.layouts import read_task
from jobs.stages.evaluate.data.pairs import task_pairs
from jobs.stages.evaluate.data.tasks import EvaluationTask, load_tasks
from jobs.stages.train.pair_files import read_pairs
from udfs.errors import LakeError, SettingsError
from udfs.training.data import NOTES

_SIDE = ("text", "image", "image_uri")
# Of a pairs table, all but the negatives, which are replaced.
COLUMNS = (
    "direction",
    "instruction",
    *(f"{side}_{name}" for side in ("query", "positive") for name in _SIDE),
    "positive_id",
)


def read_mined_pairs(
    lake: Lake, run: Run, *, mine: MineSettings, evaluate: EvaluateSettings
) -> DataFrame:
    """COLUMNS of the pairs of `mine.pairs` and `mine.tasks`, and query_key, own_key, positive_key, query_id.

    A key is the hash of a content (text, picture, URI); `own_key` that of the picture of a query that has text too,
    else null. Queries with one `query_id` are the same, instruction included. Raises SettingsError or LakeError.
    """
    frames = []
    if mine.pairs:
        frames.append(_conform(_table(lake, run, mine.pairs), mine.pairs))
    if mine.tasks:
        judged = task_pairs(lake.spark, read_train_tasks(mine, evaluate))
        frames.append(_conform(judged, "mine.tasks"))
    if not frames:
        raise SettingsError(
            "nothing to mine negatives for: set mine.pairs to a table, or mine.tasks to retrieval tasks"
        )
    return _add_keys(reduce(_union, frames))


def _union(one: DataFrame, other: DataFrame) -> DataFrame:
    return one.unionByName(other, allowMissingColumns=True)  # tasks have no notes


def read_train_tasks(mine: MineSettings, evaluate: EvaluateSettings) -> list[EvaluationTask]:
    """The tasks of `mine.tasks` with their train split."""
    return load_tasks(evaluate.model_copy(update={"tasks": mine.tasks, "split": "train"}))


def candidate_rows(
    pairs: DataFrame, *, mine: MineSettings, evaluate: EvaluateSettings
) -> DataFrame:
    """(key, text, image, image_uri): what may become a negative, each content once."""
    rows = contents(pairs, "positive")
    if mine.corpus == "tasks":
        for task in read_train_tasks(mine, evaluate):
            documents = read_task(pairs.sparkSession, task).documents
            rows = rows.unionByName(documents.select(_key(*_SIDE).alias("key"), *_SIDE))
    return rows.dropDuplicates(["key"])


def contents(pairs: DataFrame, side: str) -> DataFrame:
    """(key, text, image, image_uri) of one side of all pairs, URIs as they are given."""
    named = (F.col(f"{side}_{name}").alias(name) for name in _SIDE)
    return pairs.select(F.col(f"{side}_key").alias("key"), *named)


def locate_images(rows: DataFrame, *, image_base: str) -> DataFrame:
    """Rows with an `image_uri` that starts from `image_base` where it is relative."""
    if not image_base:
        return rows
    uri = F.col("image_uri")
    relative = ~(uri.startswith("/") | uri.contains("://"))
    base = absolute(image_base).rstrip("/") + "/"
    whole = F.when(relative, F.concat(F.lit(base), uri)).otherwise(uri)
    return rows.withColumn("image_uri", whole)


def _table(lake: Lake, run: Run, pairs: str) -> DataFrame:
    table = table_given(pairs)
    if table.endswith(".parquet"):
        return read_pairs(lake.spark, table)
    version = table_version(lake.spark, table)
    run.source_table, run.source_version = table, version
    return read_pairs(lake.spark, table, version=version)


def _conform(frame: DataFrame, where: str) -> DataFrame:
    """COLUMNS of a pairs table; those that it lacks are null."""
    unknown = sorted(set(frame.columns) - {*COLUMNS, *NOTES, "negatives"})
    if unknown:
        raise LakeError(f"{where} has the columns {unknown}; those of pairs are {list(COLUMNS)}")
    sides = {
        side for side in ("query", "positive") for n in _SIDE if f"{side}_{n}" in frame.columns
    }
    if len(sides) < 2:
        raise LakeError(f"{where} has no column of the query or of the positive: {frame.columns}")
    return frame.select(
        *(
            (F.col(name) if name in frame.columns else F.lit(None)).cast(_kind(name)).alias(name)
            for name in COLUMNS
        ),
        *(name for name in NOTES if name in frame.columns),
    )


def _kind(name: str) -> str:
    return "binary" if name.endswith("_image") else "string"


def _add_keys(pairs: DataFrame) -> DataFrame:
    query, positive = ([f"{side}_{name}" for name in _SIDE] for side in ("query", "positive"))
    pictured = F.col("query_image").isNotNull() | F.col("query_image_uri").isNotNull()
    own = F.when(pictured & F.col("query_text").isNotNull(), _key(None, *query[1:]))
    told = F.coalesce("instruction", F.lit(""))
    return pairs.select(
        "*",
        _key(*query).alias("query_key"),
        own.alias("own_key"),
        _key(*positive).alias("positive_key"),
    ).withColumn("query_id", F.sha2(F.concat_ws("/", "query_key", told), 256))


def _key(text: str | None, image: str, uri: str) -> Column:
    """Hash of a content. Bytes win over a URI, as everywhere."""
    none = F.lit("")
    parts = (
        F.coalesce(F.sha2(F.col(text), 256), none) if text else none,
        F.coalesce(F.sha2(F.col(image), 256), none),
        F.when(F.col(image).isNull(), F.coalesce(F.col(uri), none)).otherwise(none),
    )
    return F.sha2(F.concat_ws("/", *parts), 256)
