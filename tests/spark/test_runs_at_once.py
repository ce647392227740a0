"""Runs of one lake that commit at the same moment: none of them fails for it, and nothing is written twice."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from pyspark.sql import DataFrame

from jobs.lake.claims import claim
from jobs.lake.lake import Lake, now
from jobs.lake.releases import Release
from jobs.lake.runs import Run
from jobs.stages.embed.commit import commit
from tests.lake_settings import settings_of
from udfs.errors import LakeError

pytestmark = pytest.mark.spark

AT_ONCE = 3


def at_once(work, arguments) -> list:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(work, arguments))


def sessions(lake: Lake) -> list[Lake]:
    """The lake as several jobs have it open: each with temporary views of its own."""
    return [Lake(lake.spark.newSession(), settings_of(lake).lake) for _ in range(AT_ONCE)]


def row_of(release_id: int, run_id: str) -> dict:
    release = Release(release_id, "model-a", 1, f"index-{run_id}")
    return {**vars(release), "released_at": now(), "by_run": run_id}


def test_runs_that_end_at_once_are_all_recorded(open_lake):
    lake = open_lake()
    runs = [Run(lake, "search_table", "{}") for _ in range(2 * AT_ONCE)]
    at_once(lambda run: run.begin(), runs[:AT_ONCE])
    assert {row.status for row in lake.read("runs").collect()} == {"running"}
    at_once(lambda run: run.end("succeeded"), runs)
    rows = lake.read("runs").collect()
    assert {row.run_id: row.status for row in rows} == {run.run_id: "succeeded" for run in runs}
    assert len(rows) == len(runs)


def test_a_run_that_has_written_takes_no_claim(open_lake):
    run = Run(open_lake(published=False), "vacuum_indexes", "{}")
    assert run.insert_new("releases", row_of(1, run.run_id), key="release_id")
    with (
        pytest.raises(ValueError, match="wrote before it took the claim"),
        claim(run, name="vacuum_indexes", timeout=1),
    ):
        pytest.fail("held")


def test_rows_inserted_at_once_are_all_there_and_one_key_once(open_lake):
    lake = open_lake()
    lakes = sessions(lake)

    def insert(asked: tuple[Lake, int, str]) -> bool:
        where, release_id, run_id = asked
        run = Run(where, "release", "{}", run_id=run_id)
        return run.insert_new("releases", row_of(release_id, run_id), key="release_id")

    others = [(where, number, f"other-{number}") for number, where in enumerate(lakes)]
    assert at_once(insert, others) == [True] * AT_ONCE
    same = [(where, 10, f"same-{number}") for number, where in enumerate(lakes)]
    assert sorted(at_once(insert, same)) == [False] * (AT_ONCE - 1) + [True]
    rows = lake.read("releases").collect()
    assert sorted(row.release_id for row in rows) == [*range(AT_ONCE), 10]
    begun = {row.run_id for row in lake.read("runs").where("status = 'running'").collect()}
    assert {row.by_run for row in rows} < begun, "a run begins with its first write"


def embedded(
    where: Lake,
    model_id: str,
    run_id: str,
    *,
    replaced: tuple[int | None, int | None] = (None, None),
) -> None:
    """The commit of a micro-batch of two rows, as embed_table makes it."""
    rows = [(f"row-{n}", run_id, old, "ok", None, [1.0, 0.0]) for n, old in enumerate(replaced)]
    staged = where.spark.createDataFrame(
        rows,
        "id string, content_hash string, replaced_id bigint, status string, error string, embedding array<float>",
    )
    job = SimpleNamespace(
        lake=where,
        model_id=model_id,
        run=Run(where, "embed_table", "{}", run_id=run_id),
        source=SimpleNamespace(table="products"),
        claim=SimpleNamespace(require=lambda: None),
    )
    replaces = replaced != (None, None)
    commit(job, staged, rows=2, replaces=replaces)


def test_vectors_of_several_models_are_committed_at_once(open_lake):
    lake = open_lake()
    lakes = sessions(lake)
    at_once(lambda n: embedded(lakes[n], f"model-{n}", f"run-{n}"), range(AT_ONCE))
    rows = lake.read("vectors").collect()
    assert sorted((row.model_id, row.id) for row in rows) == [
        (f"model-{n}", f"row-{m}") for n in range(AT_ONCE) for m in range(2)
    ]
    assert len({row.vector_id for row in rows}) == len(rows)


def test_two_runs_in_one_session_commit_their_own_rows(open_lake, monkeypatch):
    """Both have made the view of their rows before either reads its own."""
    lake = open_lake()
    both, kind = threading.Barrier(2, timeout=60), type(lake.spark.range(1))
    make = kind.createOrReplaceTempView

    def make_and_wait(frame: DataFrame, name: str) -> None:
        make(frame, name)
        both.wait()

    lake.name("vectors"), lake.name("run_events")
    with monkeypatch.context() as patched:
        patched.setattr(kind, "createOrReplaceTempView", make_and_wait)
        at_once(lambda n: embedded(lake, f"model-{n}", f"run-{n}"), range(2))
    rows = lake.read("vectors").collect()
    assert sorted((row.model_id, row.id, row.content_hash, row.run_id) for row in rows) == [
        (f"model-{n}", f"row-{m}", f"run-{n}", f"run-{n}") for n in range(2) for m in range(2)
    ]
    shown = lake.spark.sql("SHOW VIEWS").where("isTemporary").collect()
    left = [view.viewName for view in shown]
    assert not [name for name in left if name.startswith("gme_vectors_")], "views are dropped"


@pytest.mark.long
@pytest.mark.parametrize("changed", [False, True], ids=["new rows", "a changed row"])
def test_vectors_of_one_model_are_committed_by_one_run(open_lake, changed):
    lake = open_lake()
    lakes = sessions(lake)
    replaced = (None, None)
    if changed:
        embedded(lake, "model-a", "before")
        replaced = (lake.read("vectors").where("id = 'row-0'").first().vector_id, None)
        lake.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id = 'row-1'")

    def outcome(n: int) -> str:
        try:
            embedded(lakes[n], "model-a", f"run-{n}", replaced=replaced)
        except LakeError as error:
            return str(error)
        return "committed"

    said = sorted(at_once(outcome, range(AT_ONCE)))
    assert said.count("committed") == 1, said
    others = [one for one in said if one != "committed"]
    assert all("another run has written vectors of products" in one for one in others)
    rows = lake.read("vectors").collect()
    assert sorted(row.id for row in rows) == ["row-0", "row-1"]
    assert len({row.content_hash for row in rows}) == 1
