"""Data folders as people have them: numbers as ids, odd columns, positives without qrels, files by URI."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.stages.evaluate.data.layouts import read_task
from jobs.stages.evaluate.data.tasks import EvaluationTask
from tests.spark.umrb_data import StandIn, drawn_items, write_mbeir
from udfs.errors import LakeError


def task(folder: Path | str, **fields) -> EvaluationTask:
    known = {"layout": "beir", "query": "text", "document": "text", "metric": "ndcg@10"}
    return EvaluationTask(**(known | {"name": "mine", "folder": str(folder)} | fields))


def lines(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """BEIR as JSON lines, ids as numbers, a further text column, instructions of the queries' own."""
    corpus = [
        {"_id": 1, "title": " A ", "text": "first\n", "note": "n1", "image": "a.png"},
        {"_id": "two", "title": "", "text": " ", "note": "n2", "image": "s3://far/b.png"},
        {"id": "three", "text": "third", "image": ""},
    ]
    lines(tmp_path / "corpus.jsonl", corpus)
    queries = [
        {"_id": 10, "text": "who?", "instruction": "Answer."},
        {"_id": 11, "text": "what?"},
        {"_id": 12, "text": "not asked in this split"},
    ]
    lines(tmp_path / "queries.jsonl", queries)
    judged = [(10, 1, 1), (10, "two", 0), (11, "three", 2.0)]
    names = ("query-id", "corpus-id", "score")
    rows = [dict(zip(names, row, strict=True)) for row in judged]
    lines(tmp_path / "qrels/test.jsonl", rows)
    return tmp_path


def test_json_lines_with_numbers_as_ids(spark, folder):
    data = read_task(spark, task(folder.as_uri()))
    documents = {row.id: row.text for row in data.documents.collect()}
    assert documents == {"1": "A  first", "two": None, "three": "third"}
    queries = {row.query_id: (row.text, row.instruction) for row in data.queries.collect()}
    assert queries == {"10": ("who?", "Answer."), "11": ("what?", None)}
    judged = {(row.query_id, row.id): row.score for row in data.judgements.collect()}
    assert judged == {("10", "1"): 1, ("10", "two"): 0, ("11", "three"): 2}


def test_the_task_narrows_fields_gives_the_instruction_and_drops_the_query_itself(spark, folder):
    narrow = task(
        folder,
        document="image,text",
        document_fields=("note", "title", "image"),
        instruction="Find it.",
        drop_self=True,
    )
    data = read_task(spark, narrow)
    documents = {row.id: (row.text, row.image_uri) for row in data.documents.collect()}
    assert documents == {
        "1": ("n1  A", f"{folder}/a.png"),
        "two": ("n2", "s3://far/b.png"),
        "three": (None, None),
    }
    queries = data.queries.collect()
    assert {row.instruction for row in queries} == {"Find it."}
    assert {row.self_id for row in queries} == {"10", "11"}


def test_what_a_file_lacks_is_said(spark, folder):
    from pyspark.errors import PySparkException

    lines(folder / "corpus.jsonl", [{"title": "no id at all"}])
    with pytest.raises(PySparkException, match=r"corpus\.jsonl has a row without _id or id or"):
        read_task(spark, task(folder)).documents.collect()
    (folder / "corpus.jsonl").unlink()
    corpus = folder / "corpus.parquet"
    for columns, fields, words in (
        ({"key": ["1"]}, {}, "has no column of text, but this side is text; it has: key"),
        ({"key": ["1"], "text": ["a"]}, {}, "has no column _id or id or .*it has: key, text"),
        ({"id": ["1"], "text": ["a"]}, {"document": "image,text"}, "has no column image, but"),
        ({"id": ["1"], "text": ["a"]}, {"document_fields": ("body",)}, "has no column body, but"),
        ({"id": ["1"], "image": [7]}, {"document": "page"}, "column image of .* is bigint; expect"),
    ):
        pq.write_table(pa.table(columns), corpus)
        with pytest.raises(LakeError, match=words):
            read_task(spark, task(folder, **fields))
    corpus.unlink()
    lines(folder / "corpus.jsonl", [])
    (folder / "qrels/test.jsonl").unlink()
    (folder / "qrels/test.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(
        LakeError, match=r"test\.tsv has no column query-id or query_id; it has: q1"
    ):
        read_task(spark, task(folder))


@pytest.mark.parametrize("objects", [False, True], ids=["ids", "objects"])
def test_mbeir_without_qrels_takes_the_positives_and_the_first_instruction(
    spark, tmp_path, objects
):
    mbeir = {"layout": "mbeir", "corpus": "cirr_task7", "query": "image,text", "document": "image"}
    stand = StandIn(task(tmp_path, **mbeir))
    drawn_items(stand, seed=0, ids=["8:1", "8:2", "8:3"], asked=["8:7", "8:9"])
    write_mbeir(stand, qrels=False, objects=objects)
    data = read_task(spark, stand.task)
    judged = {(row.query_id, row.id): row.score for row in data.judgements.collect()}
    assert judged == dict.fromkeys(stand.judgements, 1)
    assert {row.instruction for row in data.queries.collect()} == {None}

    table = tmp_path / "instructions/query_instructions.tsv"
    table.parent.mkdir()
    head = "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\n"
    table.write_text(head + "image,text\timage\tCIRR\t8\tChange it.\tOther.\n")
    queries = read_task(spark, stand.task).queries.collect()
    assert {row.query_id: row.instruction for row in queries} == {
        "8:7": "Change it.",
        "8:9": "Change it.",
    }
    table.write_text(head + "text\timage\tMSCOCO\t9\tFind it.\t\n")
    with pytest.raises(LakeError, match="no instruction for image,text -> image"):
        read_task(spark, stand.task)
