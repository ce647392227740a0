"""mine_negatives over Spark: pictures as bytes and as paths, one of them broken, and a training on what it writes."""

import json

import pytest

from jobs.lake.registry import Registry
from jobs.lake.runs import open_run
from jobs.stages.mine.job import mine_negatives
from jobs.stages.register import describe_checkpoint
from jobs.stages.train.job import train_embedder
from tests.lake_settings import settings_of
from tests.unit.training.conftest import picture
from udfs.errors import LakeError, SettingsError

pytestmark = pytest.mark.spark

COLUMNS = "query_text string, query_image binary, positive_image binary, positive_image_uri string, positive_id string"
COLOURS = ("red", "blue", "green", "grey")


@pytest.fixture
def mined(open_lake, checkpoint, tracking_uri, tmp_path):
    def run(*sets):
        lake = open_lake(
            f"model.checkpoint={checkpoint}",
            "model.profile=tiny",
            "serving.threads=1",
            f"mlflow.tracking_uri={tracking_uri}",
            f"mine.pairs={tmp_path / 'pairs'}",
            f"mine.output={tmp_path / 'mined'}",
            f"mine.image_base={tmp_path}",
            "mine.highest=null",
            *sets,
        )
        settings = settings_of(lake)
        registry = Registry(settings)
        model = registry.register(describe_checkpoint(settings.model), alias="champion")
        with open_run(lake, registry, job="mine_negatives") as run:
            report = mine_negatives(lake, run, model=model, settings=settings)
        return lake, registry, run, report

    return run


def write_table(spark, tmp_path):
    """Two pairs of one query, one picture by path, one broken picture, one composed query, four colours."""
    (tmp_path / "blue.png").write_bytes(picture("blue", seed=9))
    rows = [
        ("a mug", None, picture("red", seed=1), None, "red"),
        ("a mug", None, picture("green", seed=1), None, "green"),
        ("a red kite", None, picture("red", seed=2), None, "red"),
        ("a blue hat", None, None, "blue.png", "blue"),
        ("a broken hat", None, b"no picture", None, "broken"),
        ("a broken query", b"no picture", picture("grey", seed=1), None, "grey"),
        ("but in blue", picture("grey", seed=5), picture("blue", seed=3), None, "blue"),
    ]
    frame = spark.createDataFrame([tuple(map(_bytes, row)) for row in rows], COLUMNS)
    frame.repartition(2).write.format("delta").save(str(tmp_path / "pairs"))


def _bytes(cell):
    return bytearray(cell) if isinstance(cell, bytes) else cell


def by_text(spark, table):
    """Rows by query text; negatives as (bytes or path, id)."""
    rows = spark.read.format("delta").load(str(table)).collect()
    found = {}
    for row in rows:
        negatives = row.negatives or []
        shown = [(bytes(n.image) if n.image else n.image_uri, n.id) for n in negatives]
        found.setdefault(row.query_text, []).append((row, shown))
    return found


@pytest.mark.long
def test_negatives_are_no_right_answers_and_a_training_takes_them(
    spark, mined, open_lake, tmp_path
):
    write_table(spark, tmp_path)
    lake, registry, run, report = mined("mine.k=3")
    rows = by_text(spark, tmp_path / "mined")
    assert sum(map(len, rows.values())) == 7
    for row, shown in rows["a mug"]:  # either answer is right for both
        assert len(shown) == 3
        assert {name for _, name in shown} <= {"blue", "grey"}
        assert row.positive_id in {"red", "green"}
    ((_, shown),) = rows["a red kite"]
    assert len(shown) == 3 and "red" not in {name for _, name in shown}
    ((row, shown),) = rows["a blue hat"]
    assert row.positive_image_uri == "blue.png"
    assert len(shown) == 3 and "blue" not in {name for _, name in shown}
    for text in ("a broken hat", "a broken query"):
        ((_, shown),) = rows[text]
        assert shown == []
    everything = [cell for of in rows.values() for _, shown in of for cell, _ in shown]
    assert b"no picture" not in everything
    assert "blue.png" in everything
    counts = report.counts
    assert (counts["pairs"], counts["candidates"], counts["rejected_candidates"]) == (7, 7, 1)
    assert (counts["query_rejected"], counts["positive_rejected"]) == (1, 1)
    assert counts["negatives"] == 15
    assert counts["left_out_positive"] > 0
    recorded = lake.read("runs").where("job = 'mine_negatives'").first()
    assert recorded.counts["negatives"] == 15 and recorded.status == "succeeded"
    logged = registry.client.get_run(run.mlflow_run_id)
    assert [i.dataset.name for i in logged.inputs.dataset_inputs] == [f"{tmp_path / 'pairs'}@v0"]

    trained = open_lake(
        f"train.base={settings_of(lake).model.checkpoint}",
        f"train.pairs={tmp_path / 'mined'}",
        f"train.output={tmp_path / 'model'}",
        f"train.image_base={tmp_path}",
        "train.steps=2",
        "train.batch=4",
        "train.precision=float32",
        f"mlflow.tracking_uri={settings_of(lake).mlflow.tracking_uri}",
        "model.profile=tiny",
        "model.name=second",
    )
    settings = settings_of(trained)
    registry = Registry(settings)
    with open_run(trained, registry, job="train_embedder") as run:
        assert "2 steps" in train_embedder(spark, run, registry=registry, settings=settings)


def test_random_ones_own_pictures_and_a_second_run(spark, mined, tmp_path):
    write_table(spark, tmp_path)
    _, _, _, first = mined("mine.k=2", "mine.choose=random", "mine.own_picture=true")
    ((row, shown),) = by_text(spark, tmp_path / "mined")["but in blue"]
    assert shown[0] == (bytes(row.query_image), None)
    assert len(shown) == 2 and "blue" not in {name for _, name in shown}
    again = mined("mine.k=2", "mine.choose=random", "mine.own_picture=true")[3]
    assert again.counts == first.counts
    history = spark.sql(f"DESCRIBE HISTORY delta.`{tmp_path / 'mined'}`").collect()
    assert [entry.version for entry in history] == [1, 0]  # one commit a run

    pairs = f"delta.`{tmp_path / 'pairs'}`"
    spark.sql(f"ALTER TABLE {pairs} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    files = spark.table(pairs).inputFiles()
    spark.sql(f"DELETE FROM {pairs} WHERE positive_id = 'blue' AND query_text = 'a blue hat'")
    assert spark.table(pairs).inputFiles() == files  # they hold the row still
    last = mined("mine.k=2", "mine.choose=random", "mine.own_picture=true")[3]
    assert (first.counts["candidates"], last.counts["candidates"]) == (7, 6)
    rows = by_text(spark, tmp_path / "mined")
    written = [cell for of in rows.values() for _, shown in of for cell, _ in shown]
    assert "blue.png" not in written and len(written) == last.counts["negatives"]


def test_what_is_refused(spark, mined, tmp_path):
    write_table(spark, tmp_path)
    with pytest.raises(SettingsError, match=r"mine\.output is not set"):
        mined("mine.output=")
    with pytest.raises(SettingsError, match="which stays as it is"):
        mined(f"mine.output={tmp_path / 'pairs'}")
    with pytest.raises(SettingsError, match="nothing to mine"):
        mined("mine.pairs=")
    spark.range(3).write.format("delta").save(str(tmp_path / "other"))
    with pytest.raises(LakeError, match="no table of pairs"):
        mined(f"mine.output={tmp_path / 'other'}")
    with pytest.raises(LakeError, match=r"columns \['id'\]"):
        mined(f"mine.pairs={tmp_path / 'other'}")
    assert spark.read.format("delta").load(str(tmp_path / "other")).columns == ["id"]


def write_task(tmp_path):
    """A BEIR folder of text queries and pictures by path: two judged in train, one in test, one that nobody judged."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(picture(colour, seed=4))
    files = {
        "corpus": [{"_id": colour, "image": f"{colour}.png"} for colour in COLOURS],
        "queries": [{"_id": f"q-{colour}", "text": f"a {colour} scarf"} for colour in COLOURS],
        "qrels/train": [
            {"query-id": f"q-{colour}", "corpus-id": colour, "score": 1} for colour in COLOURS[:2]
        ],
        "qrels/test": [{"query-id": "q-green", "corpus-id": "green", "score": 1}],
    }
    for name, rows in files.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "scarves", "layout": "beir", "folder": str(folder), "metric": "ndcg@10"}
    task |= {"query": "text", "document": "image"}
    (tmp_path / "tasks.yaml").write_text(json.dumps({"tasks": [task]}))
    return folder


@pytest.mark.long
def test_judgements_of_tasks_are_pairs_and_their_documents_candidates(spark, mined, tmp_path):
    folder = write_task(tmp_path)
    tasks = ("mine.pairs=", f"mine.tasks={tmp_path / 'tasks.yaml'}", "mine.k=3")
    report = mined(*tasks)[3]
    assert (report.counts["pairs"], report.counts["candidates"]) == (2, 2)
    rows = by_text(spark, tmp_path / "mined")
    assert set(rows) == {"a red scarf", "a blue scarf"}  # of the train split alone
    ((row, shown),) = rows["a red scarf"]
    assert (row.direction, row.positive_id) == ("t2i", "red")
    assert [cell for cell, _ in shown] == [f"{folder}/blue.png"]

    report = mined(*tasks, "mine.corpus=tasks")[3]
    assert (report.counts["pairs"], report.counts["candidates"]) == (2, 4)
    ((_, shown),) = by_text(spark, tmp_path / "mined")["a red scarf"]
    others = {f"{folder}/{colour}.png" for colour in COLOURS if colour != "red"}
    assert {cell for cell, _ in shown} == others


@pytest.mark.long
def test_pairs_from_parquet_and_a_run_that_died_before_its_commit(
    spark, mined, tmp_path, monkeypatch
):
    from jobs.stages.mine import job

    write_table(spark, tmp_path)
    parquet = str(tmp_path / "pairs.parquet")
    spark.read.format("delta").load(str(tmp_path / "pairs")).write.parquet(parquet)

    def die(*_):
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(job, "with_negatives", die)
        with pytest.raises(OSError, match="no space left"):
            mined(f"mine.pairs={parquet}", "mine.k=3")
    assert not (tmp_path / "mined").exists()
    lake, _, _, report = mined(f"mine.pairs={parquet}", "mine.k=3")
    assert (report.counts["pairs"], report.counts["negatives"]) == (7, 15)
    runs = lake.read("runs").where("job = 'mine_negatives'").collect()
    assert sorted(run.status for run in runs) == ["failed", "succeeded"]
