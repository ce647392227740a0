"""evaluate_retrieval from tasks to table, MLflow and page: embedded once, compared, ranked through an index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.driver.printing import json_line
from jobs.lake.registry import Registry
from jobs.lake.runs import open_run
from jobs.stages.evaluate.data.corpora import Searched, Suite
from jobs.stages.evaluate.data.layouts import read_task
from jobs.stages.evaluate.data.tasks import load_tasks
from jobs.stages.evaluate.figures.record import load_queries
from jobs.stages.evaluate.job import evaluate_retrieval
from jobs.stages.register import describe_checkpoint
from tests.lake_settings import settings_of
from tests.shared import shared
from tests.spark.conftest import picture
from udfs.drawing import COMBINATIONS, draw_jpeg
from udfs.errors import LakeError
from udfs.gme.scratch import write_scratch_checkpoint

pytestmark = [pytest.mark.spark, pytest.mark.long]

PRODUCTS = {"-".join(combination): combination for combination in COMBINATIONS[::29]}
WORDS = list(PRODUCTS)
PHOTOS = {f"{word}/{n}": draw_jpeg(*PRODUCTS[word], seed=n) for word in WORDS for n in range(2)}
TASK = {"corpus": "photos", "document_modality": "image", "document_fields": ["image"]}
TASKS = [
    TASK | {"task": "words", "query_modality": "text", "main_metric": "ndcg_at_10"},
    TASK
    | {"task": "same's", "query_modality": "image", "main_metric": "recall_at_5"}
    | {"drop_image_ref_from_ranking": True, "instruction": "Find an image of the same product."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 photos of 40 products; one photo, and the query of another product, are broken files."""
    folder = tmp_path_factory.mktemp("photos")
    broken = picture(1)[:100]
    spoilt = f"{WORDS[0]}/1"
    rows = [
        {"id": name, "image": broken if name == spoilt else image, "corpora": ["photos"]}
        for name, image in PHOTOS.items()
    ]
    queries = [{"query_id": word, "text": word.replace("-", " ")} for word in WORDS] + [
        {"query_id": f"{word}?", "image_ref": f"{word}/0"} for word in WORDS
    ]
    queries[-1] = {"query_id": f"{WORDS[-1]}?", "image": broken}
    judged = [
        {"task": task, "query_id": f"{word}{mark}", "corpus_id": f"{word}/{n}", "score": 1}
        for task, mark in (("words", ""), ("same's", "?"))
        for word in WORDS
        for n in range(2)
        if task == "words" or n == 1
    ]
    string, data = pa.string(), pa.binary()
    tables = {
        "catalog": (rows, {"id": string, "image": data, "corpora": pa.list_(string)}),
        "queries": (
            [query | {"split": "test"} for query in queries],
            dict.fromkeys(("query_id", "text", "image_ref", "instruction", "split"), string)
            | {"image": data},
        ),
        "qrels": (
            [row | {"split": "test"} for row in judged],
            dict.fromkeys(("task", "query_id", "corpus_id", "split"), string)
            | {"score": pa.int32()},
        ),
    }
    for name, (values, columns) in tables.items():
        pq.write_table(
            pa.Table.from_pylist(values, schema=pa.schema(columns)), folder / f"{name}.parquet"
        )
    (folder / "tasks.json").write_text(json.dumps(TASKS))
    return folder


def evaluate(shop, *sets):
    """Register the shop's checkpoint and evaluate it; returns (lake, run, report)."""
    lake = shop.lake(*sets)
    settings = settings_of(lake)
    registry = Registry(settings)
    model = registry.register(describe_checkpoint(settings.model), alias="champion")
    with open_run(lake, registry, job="evaluate_retrieval") as run:
        report = evaluate_retrieval(lake, run, model=model, settings=settings)
    return lake, run, report


def values_of(lake, report) -> dict[tuple[str, str], dict[str, float]]:
    """Recorded metrics by (task, query_id)."""
    scores = load_queries(lake, report.evaluation.evaluation_id)
    return {
        (task, query): {metric: values[n] for metric, values in of.values.items()}
        for task, of in scores.items()
        for n, query in enumerate(of.query_ids)
    }


def test_two_models_are_evaluated_compared_and_ranked_through_an_index(shop, folder, tmp_path):
    page = tmp_path / "page.html"
    sets = [f"evaluate.tasks={folder}", f"evaluate.report={page}", "evaluate.depth=10"]
    lake, run, old = evaluate(shop, *sets)
    assert (run.counts["corpora_staged"], run.counts["documents_embedded"]) == (1, 80)
    assert_recorded(lake, run, old)
    assert_page(page.read_text("utf-8"), old)

    other = tmp_path / "other"
    write_scratch_checkpoint(other, seed=1, hidden=64, layers=2, texts=WORDS)
    shop.checkpoint = other
    through = ["evaluate.index=true", "index.factory=IVF2,Flat", "index.nprobe=1"]
    id_ = old.evaluation.evaluation_id
    lake, run, new = evaluate(shop, *sets, f"evaluate.against={id_}", *through)
    assert (run.counts["corpora_staged"], run.counts["documents_embedded"]) == (0, 80)
    assert_compared(lake, run, new, old)
    assert_indexed(lake, new)
    html = page.read_text("utf-8")
    assert f"new − {id_}" in html and "index − exact" in html

    lake, run, again = evaluate(shop, *sets, "evaluate.only=words")
    assert run.counts["documents_embedded"] == 0
    words = {key: value for key, value in values_of(lake, new).items() if key[0] == "words"}
    assert values_of(lake, again) == words


def assert_recorded(lake, run, report):
    rows = lake.read("evaluations").where("level = 'task' AND main").collect()
    assert {row["name"]: (row.metric, row.queries, row.split) for row in rows} == {
        "words": ("ndcg@10", 40, "test"),
        "same's": ("recall@5", 40, "test"),
    }
    for row in rows:
        assert (row.documents, row.rejected_documents, row.search) == (80, 1, "exact")
        assert row.low <= row.value <= row.high and row.run_id == run.run_id
        assert row.rejected_queries == row.unranked_queries == (row["name"] == "same's")
    told = json.loads(json_line(report.values()))
    assert told["evaluation_id"] == report.evaluation.evaluation_id
    assert len(told["lines"]) == len(report.lines)
    values = values_of(lake, report)
    assert set(values["same's", f"{WORDS[-1]}?"].values()) == {0.0}, "it could not be embedded"

    hits = {row.query_id: row.first_hits for row in lake.read("evaluated_queries").collect()}
    assert not any(f"{word}/0" in hits[f"{word}?"] for word in WORDS), "a query's own row"
    assert all(len(found) == 10 for word, found in hits.items() if word != f"{WORDS[-1]}?")
    assert not any(f"{WORDS[0]}/1" in found for found in hits.values()), "a broken document"

    data = Registry(settings_of(lake)).client.get_run(run.mlflow_run_id).data
    line = next(line for line in report.lines if line.name == "same's")
    logged = {
        name: data.metrics[f"task.same_s.recall_at_5{name}"] for name in ("", ".low", ".high")
    }
    assert logged == {"": line.score.mean, ".low": line.score.low, ".high": line.score.high}
    assert data.tags["evaluation_id"] == report.evaluation.evaluation_id
    assert not Path(lake.folder("staging", run.run_id)).exists()
    assert {(r.job, r.status) for r in lake.read("runs").collect()} == {
        ("evaluate_retrieval", "succeeded")
    }


def assert_page(html, report):
    assert html.count('src="data:image/jpeg;base64,') > 20
    for line in report.lines:
        assert f"{line.score.mean:.3f}" in html
    chance = report.floors["same's"]["chance"]
    assert chance == pytest.approx(5 / 80, rel=0.02) and f"{chance:.3f}" in html
    assert html.count("✓ right") >= 2, "wanted documents are shown at least"


def assert_compared(lake, run, new, old):
    before, after = values_of(lake, old), values_of(lake, new)
    assert set(before) == set(after)
    metrics = {"words": "ndcg@10", "same's": "recall@5"}
    rows = {(row.level, row.name): row.difference for row in new.differences}
    assert set(rows) == {(line.level, line.name) for line in new.lines}
    logged = Registry(settings_of(lake)).client.get_run(run.mlflow_run_id).data.metrics
    for task, metric in metrics.items():
        changes = [after[key][metric] - before[key][metric] for key in before if key[0] == task]
        change = rows["task", task]
        assert change.mean == pytest.approx(np.mean(changes)) and change.queries == 40
        assert change.low <= change.mean <= change.high and change.low < change.high
        assert logged[f"task.{task.replace(chr(39), '_')}.new_minus_old"] == change.mean


def assert_indexed(lake, report):
    """One list of two is read: some queries get other hits."""
    through = report.indexed
    assert through.evaluation.search == "IVF2,Flat"
    recorded = lake.read("evaluations").where(
        f"evaluation_id = '{through.evaluation.evaluation_id}' AND main AND level = 'task'"
    )
    assert {row.search for row in recorded.collect()} == {"IVF2,Flat"}
    exact, found = values_of(lake, report), values_of(lake, through)
    assert set(exact) == set(found)
    changes = {(row.level, row.name): row.difference for row in through.differences}
    for task, metric in (("words", "ndcg@10"), ("same's", "recall@5")):
        mean = np.mean([found[k][metric] - exact[k][metric] for k in exact if k[0] == task])
        assert changes["task", task].mean == pytest.approx(mean)
    hits = {
        (row.evaluation_id, row.task, row.query_id): row.first_hits
        for row in lake.read("evaluated_queries").collect()
    }
    ours, its = report.evaluation.evaluation_id, through.evaluation.evaluation_id
    assert any(hits[ours, *key] != hits[its, *key] for key in exact)
    assert all(len(hits[its, *key]) == len(hits[ours, *key]) for key in exact)
    assert not any(f"{word}/0" in hits[its, "same's", f"{word}?"] for word in WORDS)


def test_what_cannot_be_evaluated_fails_early_and_leaves_nothing(shop, folder, monkeypatch):
    sets = [f"evaluate.tasks={folder}"]
    with pytest.raises(LakeError, match="evaluation nosuch is not in"):
        evaluate(shop, *sets, "evaluate.against=nosuch")
    with pytest.raises(LakeError, match="task words has no queries with judgements"):
        evaluate(shop, *sets, "evaluate.split=valid", "evaluate.only=words")

    def dies(suite, model):
        raise RuntimeError("power cut")

    monkeypatch.setattr(Suite, "embed", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate(shop, *sets)
    lake = shop.lake()
    assert lake.read("evaluations").isEmpty()
    states = [(row.status, row.error) for row in lake.read("runs").collect()]
    assert len(states) == 3 and all(status == "failed" for status, _ in states)
    staging = Path(lake.folder("staging"))
    assert not staging.exists() or not list(staging.iterdir())


def test_documents_are_staged_once_and_again_when_their_files_change(shop, folder, tmp_path):
    copy = tmp_path / "photos"
    shutil.copytree(folder, copy)
    lake = shop.lake(f"evaluate.tasks={copy}")

    def staged() -> tuple[int, set[str]]:
        settings = settings_of(lake)
        tasks = load_tasks(settings.evaluate)
        suite = Suite.open(
            lake,
            [Searched(t.name, t.corpus_key, read_task(lake.spark, t)) for t in tasks],
            settings,
        )
        count = suite.stage()
        return count, {row.id.partition("/")[2] for row in suite.documents().collect()}

    assert staged() == (1, set(PHOTOS))
    assert staged() == (0, set(PHOTOS))
    rows = pq.read_table(folder / "catalog.parquet")
    pq.write_table(rows.slice(0, 7), copy / "catalog.parquet")
    assert staged() == (1, set(list(PHOTOS)[:7]))


def test_the_shops_real_photos_are_ranked_and_stand_beside_their_floors(shop):
    folder = shared("retrieval", "tasks.json").parent
    sets = [f"evaluate.tasks={folder}", "evaluate.only=grocery_i2t,grocery_i2it"]
    _, run, report = evaluate(shop, *sets, "evaluate.floors=floors.yaml", "evaluate.index=true")
    tasks = {line.name: line for line in report.lines if line.level == "task"}
    assert {name: (line.metric, line.score.queries) for name, line in tasks.items()} == {
        "grocery_i2t": ("recall@1", 156),
        "grocery_i2it": ("recall@1", 156),
    }
    assert report.floors["grocery_i2it"] == {"chance": pytest.approx(1 / 81), "colour": 0.17}
    assert report.floors["grocery_i2t"] == {"chance": pytest.approx(1 / 81)}
    assert (run.counts["corpora_staged"], run.counts["documents_embedded"]) == (2, 162)
    # By rule an index of so few rows is exact; half precision may order near ties another way.
    assert report.indexed.evaluation.search == "Flat"
    assert all(abs(row.difference.mean) < 0.02 for row in report.indexed.differences)
