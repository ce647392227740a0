"""UMRB over small stand-ins of its 47 datasets, each in its own layout: what is read, and the table of the paper."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from jobs.driver.evaluate_section import EvaluateSettings
from jobs.stages.evaluating.layouts import read_task
from jobs.stages.evaluating.tasks import DOCUMENTS, JUDGEMENTS, QUERIES, load_tasks
from tests.spark.umrb_data import Item, StandIn, write_umrb
from udfs import storage


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> list[StandIn]:
    data = tmp_path_factory.mktemp("umrb")
    return write_umrb(load_tasks(EvaluateSettings(tasks=["umrb.yaml"], data=str(data))))


def everything(frames: list[tuple[str, object]]) -> list:
    """Rows of many tasks' frames by one job, with the task's name."""
    from pyspark.sql import functions as F

    named = [frame.withColumn("task", F.lit(name)) for name, frame in frames]
    return functools.reduce(lambda a, b: a.unionByName(b), named).collect()


def columns(schema: str) -> list[tuple[str, str]]:
    return [tuple(column.split()) for column in schema.split(", ")]


def seen(stand: StandIn, item: Item) -> tuple:
    """(task, id, text, image, image_uri) that a reader has to give."""
    shown = (None, storage.join(stand.task.folder, item.path)) if item.path and stand.uris else None
    return (stand.task.name, item.id, item.content, *(shown or (item.image, None)))


def given(row, key: str) -> tuple:
    image = bytes(row.image) if row.image is not None else None
    return (row.task, row[key], row.text, image, row.image_uri)


def test_every_dataset_is_read_as_it_was_written(spark, stands):
    data = {stand.task.name: read_task(spark, stand.task) for stand in stands}
    for task in data.values():
        assert task.documents.dtypes == columns(DOCUMENTS)
        assert task.queries.dtypes == columns(QUERIES)
        assert task.judgements.dtypes == columns(JUDGEMENTS)

    documents = everything([(name, task.documents) for name, task in data.items()])
    expected = [seen(stand, item) for stand in stands for item in stand.documents]
    assert sorted(map(repr, (given(row, "id") for row in documents))) == sorted(map(repr, expected))

    queries = everything([(name, task.queries) for name, task in data.items()])
    expected = [seen(stand, item) for stand in stands for item in stand.queries]
    found = [given(row, "query_id") for row in queries]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    tasks = {stand.task.name: stand.task for stand in stands}
    assert all(row.instruction == tasks[row.task].instruction for row in queries)
    themselves = {(row.task, row.self_id) for row in queries if row.self_id is not None}
    assert themselves == {(name, q) for name in ("arguana", "quora") for q in ("q0", "q1")}

    judgements = everything([(name, task.judgements) for name, task in data.items()])
    found = {(row.task, row.query_id, row.id): row.score for row in judgements}
    assert len(found) == len(judgements)
    assert found == {
        (stand.task.name, query, document): score
        for stand in stands
        for (query, document), score in stand.judgements.items()
    }


def test_pictures_of_files_lie_where_the_rows_say(stands):
    by_path = [stand for stand in stands if stand.uris]
    assert {stand.task.layout for stand in by_path} == {"beir", "mbeir"}
    for stand in by_path:
        for item in (*stand.documents, *stand.queries):
            if item.path:
                assert Path(storage.join(stand.task.folder, item.path)).read_bytes() == item.image
