"""embed_table killed with SIGKILL in the middle of a run: the next run makes the table one clean run would have made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.spark.conftest import SOURCE_SCHEMA, source_rows

pytestmark = [pytest.mark.cluster, pytest.mark.spark]

ROWS = 24


def test_a_killed_run_is_continued_and_leaves_nothing_behind(
    spark, checkpoint: Path, open_lake, tmp_path: Path
):
    from jobs.driver.settings import profile_named
    from udfs.gme import Encoder, Row

    source, root = tmp_path / "products", tmp_path / "lake"
    rows = source_rows(range(ROWS))
    spark.createDataFrame(rows, SOURCE_SCHEMA).repartition(6).write.format("delta").save(
        str(source)
    )
    settings = [
        f"lake.root={root}",
        f"source.table={source}",
        f"model.checkpoint={checkpoint}",
        "model.profile=tiny",
        "embed.files_per_batch=1",
        "serving.threads=1",
        "spark.driver_memory=1g",
    ]
    job(["register-model", *sets(settings)], tmp_path).communicate(timeout=180)

    before = servers(str(checkpoint))  # of this session's earlier tests
    first = job(["embed-table", *sets(settings)], tmp_path)
    committed = root / "tables" / "vectors" / "_delta_log" / f"{1:020d}.json"
    wait_for(committed, process=first)
    started = servers(str(checkpoint)) - before
    assert started
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    written = spark.read.format("delta").load(str(root / "tables" / "vectors")).count()
    assert 0 < written < ROWS, "killed too late to show anything"
    wait_until_gone(started)

    second = job(["embed-table", *sets(settings)], tmp_path)
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    lake = open_lake(root=root)
    found = {row.id: row for row in lake.read("vectors").collect()}
    assert len(found) == lake.read("vectors").count() == ROWS
    encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
    expected = encoder.encode([Row(text=f"{r[1]} {r[2]}", image=r[3]) for r in rows]).vectors
    got = np.array([found[r[0]].embedding for r in rows], np.float32)
    assert np.abs(got - expected).max() < 1e-5


def sets(settings: list[str]) -> list[str]:
    """Settings as --set arguments."""
    return [part for item in settings for part in ("--set", item)]


def job(arguments: list[str], folder: Path) -> subprocess.Popen:
    """A gme-lake command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.driver.cli", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, *, process: subprocess.Popen, seconds: float = 240) -> None:
    """Wait until a file is there; fails with the output of a process that ended before."""
    end = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None:
            pytest.fail(f"the job ended before its first commit:\n{process.stdout.read()}")
        assert time.monotonic() < end, f"{path} was not written within {seconds} s"
        time.sleep(0.05)


def servers(checkpoint: str) -> set[int]:
    """Process ids of the living model servers of a checkpoint."""
    return {p.pid for p in psutil.process_iter() if serves(p, checkpoint)}


def wait_until_gone(pids: set[int], *, seconds: float = 30) -> None:
    """A killed driver takes its executor along, and the executor its model server."""
    _, left = psutil.wait_procs(
        [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=seconds
    )
    assert not left, f"model servers left after the kill: {left}"


def serves(process: psutil.Process, checkpoint: str) -> bool:
    try:
        line = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return "udfs.serving.server" in line and checkpoint in line
