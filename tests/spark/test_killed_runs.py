"""Runs whose process was killed: the next run of any job ends them in the lake and in MLflow, `status` sees it at once."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.driver.cli import JobContext
from jobs.lake.claims import PURGE
from jobs.lake.holder import Holder
from jobs.lake.lake import now
from jobs.lake.runs import Run
from jobs.reports.lake_status import read_status
from tests.lake_settings import settings_of

pytestmark = pytest.mark.spark

NOBODY = str(replace(Holder.this(), pid=2**22 + 1))
ELSEWHERE = str(replace(Holder.this(), machine="another-host"))


def test_the_next_run_ends_those_that_were_killed(open_lake, tracking_uri, caplog):
    lake = open_lake(f"mlflow.tracking_uri={tracking_uri}")
    context = JobContext(settings_of(lake))
    context.__dict__.update({"session": lake.spark, "lake": lake})
    client = context.registry.client

    def begun(job: str, holder: str, *, hours: int = 0, claim: int | None = None, mlflow=None):
        at = now().replace(microsecond=0) - timedelta(hours=hours)
        run = Run(lake, job, "{}", started_at=at, holder=holder, claim=claim, mlflow_run_id=mlflow)
        lake.append("run_events", [run._row("running") | {"beat_at": at}])
        folder = Path(lake.folder("staging", run.run_id))
        folder.mkdir(parents=True)
        return run, folder

    def states() -> dict[str, str]:
        return {row.run_id: row.status for row in lake.read("runs").collect()}

    tracked = client.create_run("0").info.run_id
    gone, lost = begun("build_index", NOBODY, mlflow=tracked), begun("evaluate_retrieval", ELSEWHERE, hours=25)  # fmt: skip
    claimed = begun("embed_table", NOBODY, claim=1, mlflow="0" * 32)  # MLflow does not know it
    silent, alive = begun("build_index", ELSEWHERE, hours=1), begun("build_index", str(Holder.this()))  # fmt: skip
    dead, living = [gone, lost, claimed], [silent, alive]
    wanted = {run.run_id: "killed" for run, _ in dead} | {run.run_id: "running" for run, _ in living}  # fmt: skip

    before = lake.version("run_events")
    shown = sorted(run.status for run in read_status(lake).runs)
    assert shown == ["killed"] * 3 + ["running"] * 2
    assert lake.version("run_events") == before, "who only looks writes nothing"

    for _ in range(2):  # the second time there is nothing to mark
        with context.open_run("release") as run:
            pass
        wanted[run.run_id] = "succeeded"
        assert states() == wanted
    assert lake.read("run_events").where("status = 'killed'").count() == 3
    row = lake.read("runs").where(f"run_id = '{gone[0].run_id}'").first()
    assert row.ended_at == row.started_at == row.beat_at and "was killed" in row.error
    told = client.get_run(tracked).info
    assert (told.status, told.end_time) == ("KILLED", int(row.beat_at.timestamp() * 1000))
    assert "of a killed job stays open" in caplog.text
    left = [run for run, folder in dead + living if folder.exists()]
    assert left == [lost[0], silent[0], alive[0]], "whose process may yet live keeps its files"

    # What began last is marked by nobody beside a purge; one that ends after all has the last word.
    purge, _ = begun(PURGE, str(Holder.this()), claim=1)
    late, _ = begun("build_index", NOBODY)
    with context.open_run("release"):
        assert states()[late.run_id] == "running"
    purge.end("succeeded")
    lost[0].end("succeeded")
    with context.open_run("release"):
        assert states()[late.run_id] == "killed"
    assert states()[lost[0].run_id] == "succeeded"
