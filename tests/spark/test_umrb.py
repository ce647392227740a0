"""UMRB over small stand-ins of its 47 datasets, each in its own layout: what is read, and the table of the paper."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from jobs.lake.registry import Registry
from jobs.lake.runs import open_run
from jobs.settings.conf import profile_named
from jobs.settings.evaluate import EvaluateSettings
from jobs.stages.evaluate.data.layouts import read_task
from jobs.stages.evaluate.data.tasks import load_tasks
from jobs.stages.evaluate.job import evaluate_retrieval
from jobs.stages.register import describe_checkpoint
from tests.lake_settings import settings_of
from tests.spark.conftest import Shop
from tests.spark.umrb_data import Item, StandIn, write_umrb
from udfs import storage
from udfs.drawing.tasks import DOCUMENTS, JUDGEMENTS, QUERIES
from udfs.gme import Encoder, Row


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("umrb")


@pytest.fixture(scope="module")
def stands(data: Path) -> list[StandIn]:
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


@pytest.mark.long
def test_every_dataset_is_read_as_it_was_written(spark, stands):
    read = {stand.task.name: read_task(spark, stand.task) for stand in stands}
    for task in read.values():
        assert task.documents.dtypes == columns(DOCUMENTS.ddl)
        assert task.queries.dtypes == columns(QUERIES.ddl)
        assert task.judgements.dtypes == columns(JUDGEMENTS.ddl)

    documents = everything([(name, task.documents) for name, task in read.items()])
    expected = [seen(stand, item) for stand in stands for item in stand.documents]
    assert sorted(map(repr, (given(row, "id") for row in documents))) == sorted(map(repr, expected))

    queries = everything([(name, task.queries) for name, task in read.items()])
    expected = [seen(stand, item) for stand in stands for item in stand.queries]
    found = [given(row, "query_id") for row in queries]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    tasks = {stand.task.name: stand.task for stand in stands}
    assert all(row.instruction == tasks[row.task].instruction for row in queries)
    themselves = {(row.task, row.self_id) for row in queries if row.self_id is not None}
    assert themselves == {(name, q) for name in ("arguana", "quora") for q in ("q0", "q1")}

    judgements = everything([(name, task.judgements) for name, task in read.items()])
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


@pytest.mark.long
def test_the_table_is_the_papers(shop: Shop, stands: list[StandIn], data: Path, checkpoint: Path):
    lake = shop.lake("evaluate.tasks=umrb.yaml", f"evaluate.data={data}")
    settings = settings_of(lake)
    registry = Registry(settings)
    model = registry.register(describe_checkpoint(settings.model), alias="champion")
    with open_run(lake, registry, job="evaluate_retrieval") as run:
        report = evaluate_retrieval(lake, run, model=model, settings=settings)
    lines = {(line.level, line.name): line for line in report.lines}
    counts = {pair: line.datasets for (level, pair), line in lines.items() if level == "pair"}
    assert counts == {
        "t2t": 16,
        "i2i": 1,
        "t2i": 4,
        "i2t": 4,
        "t2vd": 10,
        "t2it": 2,
        "it2t": 5,
        "it2i": 2,
        "it2it": 3,
    }
    expected = expected_averages(stands, checkpoint)
    assert {key: line.score.mean for key, line in lines.items()} == pytest.approx(expected)
    assert 0.1 < lines["overall", "all"].score.mean < 0.9, "a table that cannot be wrong"
    assert (lines["overall", "all"].datasets, lines["overall", "all"].score.queries) == (47, 116)

    rows = lake.read("evaluations").where("main").collect()
    assert {row.evaluation_id for row in rows} == {report.evaluation.evaluation_id}
    recorded = {(row.level, row["name"]): row.value for row in rows}
    assert recorded == pytest.approx(expected)


def expected_averages(stands: list[StandIn], checkpoint: Path) -> dict[tuple[str, str], float]:
    """Main metrics by (level, name), from the encoder and the formulas alone."""
    encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
    tasks = {stand.task.name: score(stand, encoder) for stand in stands}
    parts: dict[tuple[str, str], list[float]] = defaultdict(list)
    for stand in stands:
        parts[stand.task.pair, stand.task.counted_as].append(tasks[stand.task.name])
    datasets = {key: float(np.mean(values)) for key, values in parts.items()}
    kinds = {stand.task.pair: stand.task.kind for stand in stands}
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (pair, _), value in datasets.items():
        for key in (("pair", pair), ("class", kinds[pair]), ("overall", "all")):
            groups[key].append(value)
    assert [len(groups["class", kind]) for kind in ("single", "cross", "fused")] == [17, 18, 12]
    found = {key: float(np.mean(values)) for key, values in groups.items()}
    found |= {("task", name): value for name, value in tasks.items()}
    return found | {("dataset", "cqadupstack"): datasets["t2t", "cqadupstack"]}


def score(stand: StandIn, encoder: Encoder) -> float:
    """Mean of the task's metric over its queries: nDCG with linear gains, or whether anything right was found."""
    task = stand.task
    documents = encoder.encode([Row(text=d.content, image=d.image) for d in stand.documents])
    rows = [
        Row(text=q.content, image=q.image, instruction=task.instruction, is_query=True)
        for q in stand.queries
    ]
    scores = encoder.encode(rows).vectors @ documents.vectors.T
    measure, _, k = task.metric.partition("@")
    values = []
    for query, row in zip(stand.queries, scores, strict=True):
        ids = [stand.documents[n].id for n in np.argsort(-row)]
        ranked = [name for name in ids if not (task.drop_self and name == query.id)]
        gains = [stand.judgements.get((query.id, name), 0) for name in ranked[: int(k)]]
        ideal = sorted((v for (q, _), v in stand.judgements.items() if q == query.id), reverse=True)
        values.append(discounted(gains) / discounted(ideal) if measure == "ndcg" else any(gains))
    return float(np.mean(values))


def discounted(gains: list[int]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
