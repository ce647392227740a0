"""Tasks in BEIR's layout, as JSON lines or Parquet, with pictures as MTEB and ViDoRe add them."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.stages.evaluate.data.files import files_of, first_of, image_uri, join_text, read_files
from jobs.stages.evaluate.data.tasks import EvaluationTask, Modality, TaskData
from udfs import storage
from udfs.errors import LakeError

_DOCUMENT_ID = ("_id", "id", "corpus-id", "corpus_id")
_QUERY_ID = ("_id", "id", "query-id", "query_id")
_DOCUMENT_TEXT = ("title", "text")
_QUERY_TEXT = ("text", "query")
_JUDGED_QUERY = ("query-id", "query_id")
_JUDGED_DOCUMENT = ("corpus-id", "corpus_id")


def read_beir(spark: SparkSession, task: EvaluationTask) -> TaskData:
    """`corpus`, `queries` (or `query`) and `qrels/<split>` of the task's folder: see `files_of` for their names.

    A document's text is its title and text, or the columns of `document_fields`. `image` is bytes, a path or URI, or
    the struct of both that Hugging Face writes. Ids may be numbers. With `drop_self` a query is no result of itself.
    Raises LakeError for missing files and columns.
    """
    judgements = _judgements(spark, task)
    return TaskData(_documents(spark, task), _queries(spark, task, judgements), judgements)


def _documents(spark: SparkSession, task: EvaluationTask) -> DataFrame:
    wanted = task.document_fields or _DOCUMENT_TEXT
    words = [name for name in wanted if name != "image"]
    file, frame = _part(spark, task, ("corpus",), columns=[*_DOCUMENT_ID, *words, "image"])
    if not task.document_fields:
        words = [name for name in words if name in frame.columns]
    content = _content(frame, words, modality=task.document, task=task, file=file)
    return frame.select(first_of(frame, _DOCUMENT_ID, file=file).alias("id"), *content)


def _queries(spark: SparkSession, task: EvaluationTask, judgements: DataFrame) -> DataFrame:
    columns = [*_QUERY_ID, *_QUERY_TEXT, "image", "instruction"]
    file, frame = _part(spark, task, ("queries", "query"), columns=columns)
    words = [name for name in _QUERY_TEXT if name in frame.columns]
    own = frame["instruction"] if "instruction" in frame.columns else F.lit(None)
    instruction = F.lit(task.instruction) if task.instruction else own
    rows = frame.select(
        first_of(frame, _QUERY_ID, file=file).alias("query_id"),
        *_content(frame, words, modality=task.query, task=task, file=file),
        instruction.cast("string").alias("instruction"),
    )
    itself = F.col("query_id") if task.drop_self else F.lit(None).cast("string")
    asked = rows.join(judgements.select("query_id").distinct(), "query_id", "left_semi")
    return asked.withColumn("self_id", itself)


def _judgements(spark: SparkSession, task: EvaluationTask) -> DataFrame:

    columns = [*_JUDGED_QUERY, *_JUDGED_DOCUMENT, "score"]
    file, frame = _part(spark, task, ("qrels",), columns=columns, of_split=True)
    return frame.select(
        first_of(frame, _JUDGED_QUERY, file=file).alias("query_id"),
        first_of(frame, _JUDGED_DOCUMENT, file=file).alias("id"),
        # Scores are written 1 as well as 1.0.
        first_of(frame, ("score",), file=file).cast("double").cast("int").alias("score"),
    )


def _content(
    frame: DataFrame, words: Sequence[str], *, modality: Modality, task: EvaluationTask, file: str
) -> list[Column]:
    """text, image and image_uri of a side, null where its modality has none."""
    shown, texts = modality != "text", "text" in modality
    missing = [name for name in words if texts and name not in frame.columns]
    missing += ["image"] if shown and "image" not in frame.columns else []
    if missing or (texts and not words):
        raise LakeError(
            f"task {task.name}: {file} has no column {', '.join(missing) or 'of text'}, but this side is {modality}; "
            f"it has: {', '.join(frame.columns)}"
        )
    data, path = _image(frame, task=task, file=file) if shown else (F.lit(None), F.lit(None))
    return [
        (join_text(frame, words) if texts else F.lit(None)).cast("string").alias("text"),
        data.cast("binary").alias("image"),
        path.cast("string").alias("image_uri"),
    ]


def _image(frame: DataFrame, *, task: EvaluationTask, file: str) -> tuple[Column, Column]:
    """Bytes and URI of the column `image`; one of them is null."""
    kind = dict(frame.dtypes)["image"]
    if kind == "binary":
        return frame["image"], F.lit(None)
    if kind == "string":
        return F.lit(None), image_uri(frame["image"], folder=task.folder)
    if kind.startswith("struct<") and {"bytes", "path"} <= set(frame.select("image.*").columns):
        data = frame["image.bytes"]
        # Beside bytes, the path is but the name of the file they came from.
        path = F.when(data.isNull(), frame["image.path"])
        return data, image_uri(path, folder=task.folder)
    raise LakeError(
        f"task {task.name}: column image of {file} is {kind}; expected binary, string (path or URI) or "
        "struct<bytes:binary,path:string>"
    )


def _part(
    spark: SparkSession,
    task: EvaluationTask,
    names: Sequence[str],
    *,
    columns: Sequence[str],
    of_split: bool = False,
) -> tuple[str, DataFrame]:
    """First file and frame of a part of the folder, under the first of its names that is there."""
    for name in names:
        if files := files_of(task.folder, name, split=task.split, of_split=of_split):
            return files[0], read_files(spark, files, columns=columns)
    ends = "{tsv,jsonl,parquet}" if of_split else "{jsonl,jsonl.gz,parquet}"
    inside = f"{names[0]}/{task.split}.{ends}" if of_split else f"{names[0]}.{ends} or {names[0]}/"
    there = storage.names(task.folder)
    raise LakeError(
        f"task {task.name}: no {inside} in {task.folder}; "
        + (f"there are: {', '.join(there[:20])}" if there else "it is empty or not a folder")
    )
