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

from jobs.driver.session import QUICK_CONF, QUICK_JAVA
from tests.spark.conftest import SOURCE_SCHEMA, source_rows

pytestmark = [pytest.mark.cluster, pytest.mark.spark, pytest.mark.timeout(6000)]

ROWS = 24
# A command has a JVM of its own, which compiles more than it works.
QUICK = [
    "spark.driver_memory=1g",
    f"spark.conf.spark.driver.extraJavaOptions=-XX:+UseSerialGC {QUICK_JAVA}",
    *(f"spark.conf.{name}={value}" for name, value in QUICK_CONF.items()),
]

# Files of the lake whose appearance (for lists: of one more of them) is the moment of a kill, in the order of a run.
POINTS = {
    "the claim is taken": "tables/run_events/_delta_log/*.json",
    "ids are counted": "staging/*/ids-*/_SUCCESS",
    "the stream has an identity": "streams/*/identity.json",
    "the checkpoint is being made": "streams/*/checkpoint/metadata",
    "the first offsets are written": "streams/*/checkpoint/offsets/0",
    "rows are looked at": "staging/*/batch-0/pending/_SUCCESS",
    "rows are being embedded": "staging/*/batch-0/embedded/_temporary",
    "rows are embedded": "staging/*/batch-0/embedded/_SUCCESS",
    "the first commit": "tables/vectors/_delta_log/*.json",
    "the first batch is noted": "streams/*/checkpoint/commits/0",
    "more rows are looked at": "staging/*/batch-2/pending/_SUCCESS",
    "more rows are embedded": "staging/*/batch-2/embedded/_SUCCESS",
    "the last batch is noted": "streams/*/checkpoint/commits/5",
    "ids are compared": "staging/*/accounts/_SUCCESS",
}
IN_SUITE = ["rows are being embedded", "the first batch is noted"]
# TEST_KILLS=31 kills as often, at all points and some moments after each (half a minute to one a kill on two quiet cores).
# A run that goes on with little work left does not come to every point: the next one has new work.
ATTEMPTS = 3
KILLS = int(os.environ.get("TEST_KILLS", "0"))


def test_a_killed_run_is_continued_and_leaves_nothing_behind(
    spark, checkpoint: Path, open_lake, tmp_path: Path
):
    from jobs.settings.conf import profile_named
    from udfs.gme import Encoder, Row

    source, root = tmp_path / "products", tmp_path / "lake"
    write = spark.createDataFrame(source_rows(range(ROWS)), SOURCE_SCHEMA).repartition(6).write
    write.format("delta").option("delta.enableChangeDataFeed", "true").save(str(source))
    settings = [
        f"lake.root={root}",
        f"source.table={source}",
        f"model.checkpoint={checkpoint}",
        "model.profile=tiny",
        "embed.files_per_batch=1",
        "serving.threads=1",
        *QUICK,
    ]
    job(["register-model", *sets(settings)], tmp_path).communicate(timeout=180)

    points = list(POINTS)
    plan = [(points[n % len(points)], n // len(points)) for n in range(KILLS)]
    plan = plan or [(point, 0) for point in IN_SUITE]
    before = servers(str(checkpoint))  # of this session's earlier tests
    killed = []
    for number, (point, later) in enumerate(plan):
        for _ in range(ATTEMPTS):
            run = job(["embed-table", *sets(settings)], tmp_path)
            reached = wait_for(root, POINTS[point], process=run)
            if reached:
                time.sleep(later * 0.4)
                started = servers(str(checkpoint)) - before
                os.killpg(run.pid, signal.SIGKILL)
                killed.append(point)
                wait_until_gone(started)
            said, _ = run.communicate(timeout=60)
            # There is work again where a run came to its end without passing the point, and else now and then, so that
            # the unfinished window is of an older version.
            if not reached or number % 4 == 3:
                spark.sql(f"UPDATE delta.`{source}` SET title = concat(title, '!')")
            if reached:
                break
    if not KILLS:
        written = spark.read.format("delta").load(str(root / "tables" / "vectors")).count()
        assert 0 < written < ROWS, "killed too late to show anything"

    last = job(["embed-table", *sets(settings)], tmp_path)
    output, _ = last.communicate(timeout=240)
    assert last.returncode == 0, output
    lake = open_lake(root=root)
    found = {row.id: row for row in lake.read("vectors").collect()}
    assert len(found) == lake.read("vectors").count() == ROWS
    encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
    rows = spark.read.format("delta").load(str(source)).collect()
    inputs = [Row(text=f"{r.title} {r.description}", image=bytes(r.image)) for r in rows]
    expected = encoder.encode(inputs).vectors
    got = np.array([found[r.id].embedding for r in rows], np.float32)
    assert np.abs(got - expected).max() < 1e-5
    states = sorted(row.status for row in lake.read("runs").where("job = 'embed_table'").collect())
    assert states.count("killed") <= len(killed) and "running" not in states
    left = [path for name in ("staging", "streams") for path in (root / name).glob("*")]
    assert not left, "a killed run's files go with the next run"
    # A window of few changes has fewer micro-batches than the points of the last ones need.
    assert len(killed) >= 0.8 * len(plan), f"killed only at {killed}; the last said: {said}"


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


def wait_for(root: Path, pattern: str, *, process: subprocess.Popen, seconds: float = 240) -> bool:
    """Wait until the lake has one more file of a pattern than now; False where the process ended before."""
    known = set(root.glob(pattern))
    end = time.monotonic() + seconds
    while process.poll() is None:
        if set(root.glob(pattern)) - known:
            return True
        assert time.monotonic() < end, f"no new {pattern} within {seconds} s"
        time.sleep(0.02)
    return False


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
