"""conf/standalone as users run it: the wheel as a zip, spark-submit on a real cluster, from another folder."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from jobs.driver.delta_jars import delta_jars
from jobs.settings.conf import profile_named
from tests.cluster.standalone import ROOT, Processes, StandaloneCluster, until
from tests.spark.conftest import SOURCE_SCHEMA, source_rows
from tests.wheel import build_wheel
from udfs.gme import Encoder, Row

pytestmark = pytest.mark.cluster
ROWS = 12
# A few tasks instead of hundreds: two cores share this cluster with everything else.
SMALL = {
    "spark.jars.packages": "",
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "2",
}


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return Processes(folder)


def _submit(processes: Processes, master: str, *, wheel: Path, words: list[str]) -> str:
    """Run conf/standalone/submit.sh from another folder; returns what it printed."""
    options = [word for key, value in SMALL.items() for word in ("--conf", f"{key}={value}")]
    done = subprocess.run(
        [str(ROOT / "conf/standalone/submit.sh"), *words],
        cwd=processes.folder,
        env=processes.environment
        | {
            "SPARK_MASTER": master,
            "WHEEL": str(wheel),
            # Delta's jars from the local cache, so that the test needs no network
            "SPARK_OPTIONS": " ".join(["--jars", ",".join(delta_jars({})), *options]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_submitted_jobs_register_and_embed(
    spark, checkpoint: Path, processes: Processes, tmp_path: Path
) -> None:
    source, lake = tmp_path / "products", tmp_path / "lake"
    rows = source_rows(range(ROWS))
    frame = spark.createDataFrame(rows, SOURCE_SCHEMA).repartition(2)
    frame.write.format("delta").save(str(source))
    wheel = build_wheel(tmp_path)
    config = processes.folder / "lake.yaml"
    config.write_text(f"lake: {{root: {lake}}}\nserving: {{threads: 1, device: cpu}}\n")
    model = [f"model.checkpoint={checkpoint}", "model.profile=tiny"]
    with StandaloneCluster(processes) as cluster:
        words = ["register-model", "--config", "lake.yaml", "--set", model[0], "--set", model[1]]
        assert "version 1 (champion)" in _submit(processes, cluster.url, wheel=wheel, words=words)
        words = ["embed-table", "--config", "lake.yaml", "--set", f"source.table={source}"]
        printed = _submit(processes, cluster.url, wheel=wheel, words=words)
    assert f"{ROWS}" in printed
    found = {
        row.id: row.embedding
        for row in spark.read.format("delta").load(f"{lake}/tables/vectors").collect()
    }
    encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
    expected = encoder.encode([Row(text=f"{r[1]} {r[2]}", image=r[3]) for r in rows]).vectors
    assert sorted(found) == sorted(row[0] for row in rows)
    np.testing.assert_allclose([found[row[0]] for row in rows], expected, atol=1e-5)
    logs = [p.read_text() for p in processes.folder.glob("work*/app-*/*/stderr")]
    assert len(logs) >= 2, "the executors of the cluster did the work"
    until(lambda: not processes.leftovers(), seconds=15, what="everything is gone")
