"""train_embedder over Spark: a Delta table of pairs, two processes, metrics and lineage in MLflow, a registered version."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.lake.registry import Registry
from jobs.lake.runs import open_run
from jobs.stages.train.job import train_embedder
from jobs.stages.train.pair_files import DataFolder
from tests.lake_settings import settings_of
from tests.unit.training.conftest import picture
from udfs.errors import SettingsError
from udfs.gme import Encoder, Row

pytestmark = [pytest.mark.spark, pytest.mark.long]

SMALL = (
    "train.lora_rank=0",
    "train.hidden=64",
    "train.layers=1",
    "train.vision_dim=32",
    "train.vision_depth=1",
    "train.vocab=512",
    "train.batch=8",
    "train.steps=6",
    "train.lr=0.002",
    "train.processes=2",
    "train.validate_every=3",
    "model.name=colours",
    "model.profile=tiny",
)


def run_training(open_lake, *sets, root=None):
    lake = open_lake(*SMALL, *sets, root=root)
    settings = settings_of(lake)
    registry = Registry(settings)
    with open_run(lake, registry, job="train_embedder") as run:
        report = train_embedder(lake.spark, run, registry=registry, settings=settings)
    return lake, registry, run, report


def test_a_training_becomes_a_model_version_with_its_run(open_lake, spark, tmp_path):
    (tmp_path / "red.png").write_bytes(picture("red"))
    rows = [
        (f"a {colour} {kind}", bytearray(picture(colour, seed=n)), None, colour)
        for n, kind in enumerate(("mug", "kite"))
        for colour in ("red", "blue", "green", "grey")
    ]
    rows.append(("a red hat", None, "red.png", "red"))
    table = str(tmp_path / "pairs")
    columns = (
        "query_text string, positive_image binary, positive_image_uri string, positive_id string"
    )
    spark.createDataFrame(rows, columns).write.format("delta").save(table)
    output = tmp_path / "model"
    sets = (
        f"train.pairs={table}",
        f"train.validation={table}",
        f"train.output={output}",
        f"train.image_base={tmp_path}",
    )
    lake, registry, run, report = run_training(open_lake, *sets)
    assert "6 steps" in report
    model = registry.resolve()
    version = registry.client.get_model_version("colours", model.version)
    assert version.run_id == run.mlflow_run_id
    encoder = Encoder.load(output, profile=model.spec.profile)
    assert encoder.model_id == model.spec.model_id
    assert encoder.encode([Row("a red mug"), Row(image=picture("red"))]).errors == [None, None]
    history = registry.client.get_metric_history(run.mlflow_run_id, "loss")
    lines = map(json.loads, Path(f"{output}-training/metrics.jsonl").read_text().splitlines())
    assert [m.value for m in history] == pytest.approx([r["loss"] for r in lines if "loss" in r])
    checked = registry.client.get_metric_history(run.mlflow_run_id, "validation/t2i/hit_at_1")
    assert [m.step for m in checked] == [3, 6]
    assert lake.read("runs").where("job = 'train_embedder'").first().counts["steps"] == 6


def test_settings_that_cannot_work_are_refused_before_anything_starts(open_lake, tmp_path):
    output = f"train.output={tmp_path / 'model'}"
    for sets, word in (
        ((), "train.output"),
        ((output,), "train.pairs"),
        ((output, "train.drawn=true", "train.minutes=1"), "train.minutes"),
        ((output, "train.drawn=true", "train.lora_rank=8"), "lora_rank"),
    ):
        with pytest.raises(SettingsError, match=word):
            run_training(open_lake, *sets)
    assert not (tmp_path / "model").exists()


def test_pairs_are_written_once_for_each_state_of_their_table(open_lake, spark, tmp_path):
    rows = [(f"a {n} mug", f"mug {n}") for n in range(20)]
    frame = spark.createDataFrame(rows, "query_text string, positive_text string")
    table, file = str(tmp_path / "pairs"), str(tmp_path / "pairs.parquet")
    frame.write.format("delta").save(table)
    frame.write.parquet(file)
    for pairs in (table, file):
        settings = settings_of(open_lake(f"train.pairs={pairs}", f"train.validation={pairs}"))

        def written(settings=settings):
            data = DataFolder(str(tmp_path / "data"))
            files = data.pairs(spark, settings), data.validation(spark, settings)
            return [(path, Path(path).stat().st_mtime_ns) for path in files]

        first = written()
        assert written() == first
        form = "delta" if pairs == table else "parquet"
        frame.limit(3).write.format(form).mode("append").save(pairs)
        changed = written()
        assert not {path for path, _ in changed} & {path for path, _ in first}
        with pa.memory_map(changed[0][0]) as source:
            assert pa.ipc.open_file(source).read_all().num_rows == 23
