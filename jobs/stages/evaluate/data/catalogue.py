"""Tasks over a catalogue: catalog.parquet, queries.parquet and qrels.parquet in a folder, described by its tasks.json."""

from __future__ import annotations

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.stages.evaluate.data.tasks import EvaluationTask, TaskData
from udfs import storage
from udfs.errors import LakeError


def read_catalogue(spark: SparkSession, task: EvaluationTask) -> TaskData:
    """Documents are the catalogue rows whose `corpora` hold the task's corpus, with the task's document_fields alone.

    Judgements are those of the task and its split. A query whose image is null has the one of the row in image_ref.
    Raises LakeError where a file is missing.
    """
    catalog, queries, judgements = (
        _read(spark, task, name) for name in ("catalog", "queries", "qrels")
    )
    mine = (F.col("task") == task.name) & (F.col("split") == task.split)
    judged = judgements.where(mine).select("query_id", _string("corpus_id", "id"), "score")
    return TaskData(_documents(catalog, task), _queries(queries, catalog, judged, task), judged)


def _documents(catalog: DataFrame, task: EvaluationTask) -> DataFrame:
    words = [field for field in task.document_fields if field != "image"]
    text = F.concat_ws(" ", *words) if words else F.lit(None).cast("string")
    image = F.col("image") if "image" in task.document_fields else F.lit(None).cast("binary")
    rows = catalog.where(F.array_contains("corpora", task.corpus or ""))
    return rows.select("id", text.alias("text"), image.alias("image"), _string(None, "image_uri"))


def _queries(
    queries: DataFrame, catalog: DataFrame, judged: DataFrame, task: EvaluationTask
) -> DataFrame:
    asked = queries.join(judged.select("query_id").distinct(), "query_id", "left_semi")
    shown = catalog.select(F.col("id").alias("image_ref"), F.col("image").alias("shown"))
    asked = asked.join(shown, "image_ref", "left")
    image = F.coalesce("image", "shown") if "image" in task.query else F.lit(None).cast("binary")
    return asked.select(
        "query_id",
        _string("text" if "text" in task.query else None, "text"),
        image.alias("image"),
        _string(None, "image_uri"),
        (F.lit(task.instruction) if task.instruction else F.col("instruction")).alias(
            "instruction"
        ),
        _string("image_ref" if task.drop_self else None, "self_id"),
    )


def _string(column: str | None, name: str) -> Column:
    value = F.col(column) if column else F.lit(None)
    return value.cast("string").alias(name)


def _read(spark: SparkSession, task: EvaluationTask, name: str) -> DataFrame:
    file = storage.join(task.folder, f"{name}.parquet")
    try:
        return spark.read.parquet(file)
    except AnalysisException as error:
        raise LakeError(
            f"task {task.name}: {file} cannot be read as Parquet: {error.getMessage() or error}"
        ) from None
