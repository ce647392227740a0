"""ablate_training over Spark: strategies as MLflow child runs and rows of a table, each training done once."""

import json
from pathlib import Path

import pytest

from jobs.driver.printing import json_line
from jobs.lake.registry import Registry
from jobs.lake.runs import open_run
from jobs.stages.train.ablate import ablate_training
from jobs.stages.train.ablation_report import Ablation
from tests.lake_settings import settings_of
from tests.spark.test_train_embedder import SMALL
from tests.unit.training.conftest import picture
from udfs.errors import SettingsError

pytestmark = [pytest.mark.spark, pytest.mark.long]

STRATEGIES = {
    "usual": {},
    "mean": {"train": {"pooling": "mean"}, "paper": -0.41},
    "same": {"train": {"temperature": 0.03}},  # what the settings say: no training of its own
}


def run_ablation(open_lake, *sets):
    lake = open_lake(*SMALL, "train.processes=1", "train.steps=3", *sets)
    settings = settings_of(lake)
    registry = Registry(settings)
    with open_run(lake, registry, job="ablate_training") as run:
        report = ablate_training(lake, run, registry=registry, settings=settings)
    return lake, registry, run, report


@pytest.fixture
def sets(spark, tmp_path):
    """Tables of pairs in two directions, and strategies."""
    colours = ("red", "blue", "green", "grey")
    rows = [(f"a {c} mug", None, bytearray(picture(c, seed=n)), c) for n, c in enumerate(colours)]
    rows += [
        (None, bytearray(picture(c, seed=10 + n)), bytearray(picture(c, seed=20 + n)), c)
        for n, c in enumerate(colours)
    ]
    columns = "query_text string, query_image binary, positive_image binary, positive_id string"
    table, file = str(tmp_path / "pairs"), tmp_path / "strategies.yaml"
    spark.createDataFrame(rows, columns).coalesce(1).write.format("delta").save(table)
    file.write_text(json.dumps({"strategies": STRATEGIES}))
    return (
        f"train.pairs={table}",
        f"train.validation={table}",
        f"ablate.strategies={file}",
        "ablate.metric=hit@1",
    )


def test_every_strategy_is_a_child_run_and_every_training_is_done_once(open_lake, sets):
    lake, registry, run, report = run_ablation(open_lake, *sets)
    assert dict(run.counts) == {"trained": 2, "reused": 1}
    children = registry.client.search_runs(
        [registry.client.get_run(run.mlflow_run_id).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{run.mlflow_run_id}'",
    )
    by_name = {child.info.run_name: child.data for child in children}
    assert set(by_name) == {f"{name}/0" for name in STRATEGIES}
    assert by_name["mean/0"].params["train.pooling"] == "mean"
    assert {"loss", "scores/validation/t2i/hit_at_1"} <= set(by_name["mean/0"].metrics)

    rows = lake.read("ablations").toPandas()
    assert len(rows) == 3 * 2 * 3  # strategies, tasks, metrics
    keys = rows.groupby("strategy").scores_key.first()
    assert keys["usual"] == keys["same"] != keys["mean"]
    folder = Path(lake.root) / "ablations"
    works = sorted(p.name for p in (folder / "trainings").iterdir())
    assert works == sorted(set(keys))
    assert not list(folder.rglob("last.pt"))

    ablation = Ablation.read(folder / "ablations.json")
    usual, mean, same = ablation.strategies
    of_task = rows[(rows.strategy == "mean") & (rows.task == "validation/t2i")]
    expected = of_task[of_task.metric == "hit@1"]["mean"].mean()
    assert mean.scores["validation/t2i"].mean == pytest.approx(expected, abs=1e-4)
    assert set(mean.scores) == {
        "validation/t2i", "validation/i2i", "single", "cross", "average"
    }  # fmt: skip
    gap = mean.scores["average"].mean - usual.scores["average"].mean
    assert mean.change["average"].mean == pytest.approx(gap, abs=2e-4)
    assert {score.mean for score in same.change.values()} == {0.0}
    assert (folder / "ablations.md").read_text().strip() in str(report)
    values = json.loads(json_line(report.values()))
    assert {one["name"] for one in values["strategies"]} >= {"mean", "same"}
    names = {artifact.path for artifact in registry.client.list_artifacts(run.mlflow_run_id)}
    assert {"ablations.json", "ablations.md", "ablations.png"} <= names

    _, _, again, _ = run_ablation(open_lake, *sets, "ablate.only=usual", "ablate.seeds=0,1")
    assert dict(again.counts) == {"trained": 1, "reused": 1}
    seeds = Ablation.read(folder / "ablations.json")
    assert seeds.seeds == (0, 1)
    assert [s.name for s in seeds.strategies] == ["usual"]


def test_nothing_is_trained_where_there_is_nothing_to_compare_by(open_lake, sets, tmp_path):
    with pytest.raises(SettingsError, match="nothing to compare by"):
        run_ablation(open_lake, *sets, "train.validation=")
    assert not list(tmp_path.rglob("trainings"))
