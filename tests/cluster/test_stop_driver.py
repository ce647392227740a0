"""embed-table stopped by Ctrl-C, then by a scheduler: one line, nothing left behind, and the next run completes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.test_kill_driver import QUICK, servers, sets, wait_until_gone
from tests.spark.conftest import SOURCE_SCHEMA, source_rows

pytestmark = [pytest.mark.cluster, pytest.mark.spark, pytest.mark.timeout(1500)]

ROWS = 24


def test_a_stopped_run_says_one_line_and_leaves_nothing(
    spark, checkpoint: Path, open_lake, tmp_path: Path
):
    source, root = tmp_path / "products", tmp_path / "lake"
    frame = spark.createDataFrame(source_rows(range(ROWS)), SOURCE_SCHEMA).repartition(12)
    frame.write.format("delta").save(str(source))
    settings = sets(
        [
            f"lake.root={root}",
            f"source.table={source}",
            f"model.checkpoint={checkpoint}",
            "model.profile=tiny",
            "embed.files_per_batch=1",
            "serving.threads=1",
            *QUICK,
        ]
    )
    _, said, status = finished(job(["register-model", "--json", *settings], tmp_path))
    assert status == 0, said
    before = servers(str(checkpoint))

    # In the second batch of the first run, as a terminal does it; in whichever the second run goes on with, as a
    # scheduler does.
    for number, batch, send in ((signal.SIGINT, "1", os.killpg), (signal.SIGTERM, "*", os.kill)):
        process = job(["embed-table", *settings], tmp_path)
        wait_for_batch(root / "staging", batch, process=process)
        send(process.pid, number)
        out, err, status = finished(process)
        assert status == 128 + number, err
        assert out == "" and err.splitlines()[-1] == "stopped; run again to continue"
        ours = [
            line for line in err.splitlines() if "gme_lake" not in line and "WARNING" not in line
        ]
        assert ours == ["stopped; run again to continue"], err[:3000]
        assert [path.name for path in (root / "staging").glob("*")] == []
        wait_until_gone(servers(str(checkpoint)) - before)

    out, err, status = finished(job(["embed-table", "--json", *settings], tmp_path))
    assert status == 0, err
    assert json.loads(out)["counts"]["source_rows"] == ROWS
    lake = open_lake(root=root)
    vectors = lake.read("vectors")
    assert vectors.count() == vectors.select("id").distinct().count() == ROWS
    ended = lake.spark.sql(f"SELECT status FROM {lake.name('runs')} ORDER BY started_at").collect()
    assert [row.status for row in ended] == ["failed", "failed", "succeeded"]


def job(arguments: list[str], folder: Path) -> subprocess.Popen:
    """A gme-lake command in a process group of its own, which takes Ctrl-C even where this test's does not."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.driver.cli", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished(process: subprocess.Popen) -> tuple[str, str, int]:
    """What a process has said and its status."""
    out, err = process.communicate(timeout=600)
    return out, err, process.returncode


def wait_for_batch(staging: Path, number: str, *, process: subprocess.Popen) -> None:
    """Wait until a run embeds the rows of a micro-batch."""
    end = time.monotonic() + 600  # a busy machine
    while not list(staging.glob(f"*/batch-{number}/progress")):
        assert process.poll() is None, finished(process)
        assert time.monotonic() < end
        time.sleep(0.02)
