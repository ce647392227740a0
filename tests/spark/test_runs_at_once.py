"""Runs of one lake that commit at the same moment: none of them fails for it, and nothing is written twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.driver.lake import Lake, now
from jobs.driver.releases import Release
from jobs.driver.runs import Run

pytestmark = pytest.mark.spark

AT_ONCE = 3


def at_once(work, arguments) -> list:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(work, arguments))


def sessions(lake: Lake) -> list[Lake]:
    """The lake as several jobs have it open: each with temporary views of its own."""
    return [Lake(lake.spark.newSession(), lake.settings) for _ in range(AT_ONCE)]


def row_of(release_id: int, run_id: str) -> dict:
    release = Release(release_id, "model-a", 1, f"index-{run_id}")
    return {**vars(release), "released_at": now(), "by_run": run_id}


def test_runs_that_end_at_once_are_all_recorded(open_lake):
    lake = open_lake()
    runs = [Run(lake, "search_table") for _ in range(2 * AT_ONCE)]
    at_once(lambda run: run.begin(), runs[:AT_ONCE])
    assert {row.status for row in lake.read("runs").collect()} == {"running"}
    at_once(lambda run: run.end("succeeded"), runs)
    rows = lake.read("runs").collect()
    assert {row.run_id: row.status for row in rows} == {run.run_id: "succeeded" for run in runs}
    assert len(rows) == len(runs)


def test_rows_inserted_at_once_are_all_there_and_one_key_once(open_lake):
    lake = open_lake()
    lakes = sessions(lake)

    def insert(asked: tuple[Lake, int, str]) -> bool:
        where, release_id, run_id = asked
        return where.insert_new("releases", row_of(release_id, run_id), key="release_id")

    others = [(where, number, f"other-{number}") for number, where in enumerate(lakes)]
    assert at_once(insert, others) == [True] * AT_ONCE
    same = [(where, 10, f"same-{number}") for number, where in enumerate(lakes)]
    assert sorted(at_once(insert, same)) == [False] * (AT_ONCE - 1) + [True]
    ids = [row.release_id for row in lake.read("releases").collect()]
    assert sorted(ids) == [*range(AT_ONCE), 10]
