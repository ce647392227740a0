"""Tasks in M-BEIR's layout: JSON lines with fused queries and candidates, pictures by path."""

from __future__ import annotations

import csv
import io

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.stages.evaluate.data.files import first_of, image_uri, join_text, read_files
from jobs.stages.evaluate.data.tasks import EvaluationTask, Modality, TaskData
from udfs import storage
from udfs.errors import LakeError

_CANDIDATES = ("did", "txt", "img_path")
_QUERIES = ("qid", "query_txt", "query_img_path")
_INSTRUCTIONS = "instructions/query_instructions.tsv"
_MAX_INSTRUCTIONS = 1 << 20


def read_mbeir(spark: SparkSession, task: EvaluationTask) -> TaskData:
    """Queries, candidate pool and judgements of `corpus`, a name such as `mscoco_task0`, in a copy of M-BEIR.

    The pool is the dataset's own (`cand_pool/local`). Judgements are `qrels/<split>/…_qrels.txt` or, where that is not
    there, the queries' `pos_cand_list`. A task without an instruction has the first one that
    `instructions/query_instructions.tsv` gives for the query's dataset and both modalities. Raises LakeError.
    """
    pool = _file(
        task, "cand_pool/local", f"{task.corpus}_{task.split}_cand_pool", f"{task.corpus}_cand_pool"
    )
    asked = _file(task, f"query/{task.split}", f"{task.corpus}_{task.split}")
    judgements = _judgements(spark, task, asked)
    return TaskData(
        _candidates(spark, task, pool), _queries(spark, task, asked, judgements), judgements
    )


def _file(task: EvaluationTask, folder: str, *stems: str) -> str:
    """The first of the files that is there."""
    if task.corpus is None:
        raise LakeError(f"task {task.name}: corpus is not set; give a name such as mscoco_task0")
    files = [storage.join(task.folder, f"{folder}/mbeir_{stem}.jsonl") for stem in stems]
    for file in files:
        if storage.exists(file):
            return file
    there = storage.names(storage.join(task.folder, folder))
    raise LakeError(
        f"task {task.name}: no {' and no '.join(files)}; "
        + (f"there are: {', '.join(there[:20])}" if there else f"{folder} is empty or not there")
    )


def _candidates(spark: SparkSession, task: EvaluationTask, file: str) -> DataFrame:
    frame = read_files(spark, [file], columns=_CANDIDATES)
    content = _content(frame, "txt", "img_path", modality=task.document, task=task)
    return frame.select(first_of(frame, ("did",), file=file).alias("id"), *content)


def _queries(
    spark: SparkSession, task: EvaluationTask, file: str, judgements: DataFrame
) -> DataFrame:
    frame = read_files(spark, [file], columns=_QUERIES)
    rows = frame.select(
        first_of(frame, ("qid",), file=file).alias("query_id"),
        *_content(frame, "query_txt", "query_img_path", modality=task.query, task=task),
    )
    itself = F.col("query_id") if task.drop_self else F.lit(None)
    asked = rows.join(judgements.select("query_id").distinct(), "query_id", "left_semi")
    return asked.select(
        "*", _instruction(task).alias("instruction"), itself.cast("string").alias("self_id")
    )


def _content(
    frame: DataFrame, words: str, path: str, *, modality: Modality, task: EvaluationTask
) -> list[Column]:
    """text, image and image_uri of a side, null where its modality has none."""
    text = join_text(frame, [words] if "text" in modality else [])
    shown = image_uri(F.col(path), folder=task.folder) if modality != "text" else F.lit(None)
    return [
        text.alias("text"),
        F.lit(None).cast("binary").alias("image"),
        shown.cast("string").alias("image_uri"),
    ]


def _judgements(spark: SparkSession, task: EvaluationTask, asked: str) -> DataFrame:
    name = f"qrels/{task.split}/mbeir_{task.corpus}_{task.split}_qrels.txt"
    file = storage.join(task.folder, name)
    if not storage.exists(file):
        return _positives(spark, asked)
    # qid, 0, did, relevance, number of M-BEIR's task
    words = F.split(F.btrim("value"), r"\s+")
    return (
        spark.read.text(file)
        .where(F.btrim("value") != "")
        .select(
            words[0].alias("query_id"), words[2].alias("id"), words[3].cast("int").alias("score")
        )
    )


def _positives(spark: SparkSession, asked: str) -> DataFrame:
    frame = spark.read.schema("qid string, pos_cand_list array<string>").json(asked)
    one = F.explode("pos_cand_list").alias("one")
    # M-BEIR's files list ids; its description lists objects with a `did`.
    did = F.when(F.col("one").startswith("{"), F.get_json_object("one", "$.did"))
    return frame.select(F.col("qid").alias("query_id"), one).select(
        "query_id", F.coalesce(did, "one").alias("id"), F.lit(1).alias("score")
    )


def _instruction(task: EvaluationTask) -> Column:
    if task.instruction:
        return F.lit(task.instruction)
    file = storage.join(task.folder, _INSTRUCTIONS)
    if not storage.exists(file):
        return F.lit(None).cast("string")
    found = first_instructions(
        storage.read_bytes(file, max_bytes=_MAX_INSTRUCTIONS).decode("utf-8"), task=task
    )
    if not found:
        raise LakeError(
            f"task {task.name}: {file} has no instruction for {task.query} -> {task.document}; give the task one"
        )
    dataset = F.substring_index("query_id", ":", 1)
    return F.element_at(F.create_map(*(F.lit(w) for pair in found.items() for w in pair)), dataset)


def first_instructions(tsv: str, *, task: EvaluationTask) -> dict[str, str]:
    """First instruction of each dataset_id (the part of a qid before `:`) for the task's modalities.

    Columns: query_modality, cand_modality, dataset_name, dataset_id, prompt_1, prompt_2, …
    """
    rows = csv.DictReader(io.StringIO(tsv), delimiter="\t", quoting=csv.QUOTE_NONE)
    wanted = (task.query, task.document)
    found: dict[str, str] = {}
    for row in rows:
        prompts = [row[name] for name in row if name and name.startswith("prompt_") and row[name]]
        if (row["query_modality"], row["cand_modality"]) == wanted and prompts:
            found[row["dataset_id"].strip()] = prompts[0].strip()
    return found
