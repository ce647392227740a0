"""Rows done that tasks report while a stage runs, and what is shown of them."""

import logging
import threading
import time

import pytest

from jobs.driver.progress import RowProgress, rows_from_executors
from udfs import storage
from udfs.embed.rows_done import Done, RowsDone, read_done


def write(folder, name, *count):
    storage.write_small(
        f'{{"rows": {count[0]}, "rejected": {count[1]}, "ended": {str(count[2]).lower()}}}'.encode(),
        f"{folder}/{name}.json",
    )


def test_a_task_reports_in_between_and_at_its_end(tmp_path):
    done = RowsDone(str(tmp_path), every=0)
    done.add(3, rejected=1)
    assert read_done(str(tmp_path), known={}) == Done(3, 1, False)
    done.add(2)
    done.end()
    known = {}
    assert read_done(str(tmp_path), known=known) == Done(5, 1, False)
    assert known == {"0.json": Done(5, 1, True)}
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"], "something temporary was left"


def test_a_task_writes_no_oftener_than_it_may_and_nothing_unasked(tmp_path):
    done = RowsDone(str(tmp_path), every=60)
    done.add(3)
    assert list(tmp_path.iterdir()) == []
    nobody_looks = RowsDone(None, every=0)
    nobody_looks.add(3)
    nobody_looks.end()


def test_a_count_that_cannot_be_written_costs_no_task_and_makes_no_folder(tmp_path, caplog):
    gone = tmp_path / "gone"
    done = RowsDone(str(gone), every=0)
    for _ in range(3):
        done.add(1)
    done.end()
    assert not gone.exists()
    assert len(caplog.records) == 1 and "gone/0.json cannot be written" in caplog.text


def test_ended_tasks_are_not_read_again_and_damaged_files_wait(tmp_path):
    folder = str(tmp_path)
    write(folder, 0, 7, 1, True)
    write(folder, 1, 4, 0, False)
    (tmp_path / "2.json").write_text('{"rows": ')
    (tmp_path / ".3.json.tmp").write_text("x")
    known = {}
    assert read_done(folder, known=known) == Done(11, 1, False)
    (tmp_path / "0.json").write_text("not read again")
    write(folder, 1, 6, 0, False)
    write(folder, 2, 1, 1, False)
    assert read_done(folder, known=known) == Done(14, 2, False)
    assert read_done(f"{folder}/nowhere", known={}) == Done(0, 0, False)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="gme_lake")
    return lambda: [record.getMessage() for record in caplog.records]


def test_rows_under_way_are_shown_never_go_back_and_are_counted_once(lines):
    progress = RowProgress("embed products", total=100)
    progress.under_way(Done(20, 2, False), every=0)
    progress.under_way(Done(10, 0, False), every=0)  # a task is tried again
    assert "embed products: 20 of 100 rows" in progress.line() and "2 rejected" in progress.line()
    assert len(lines()) == 1, "no news is no line"
    progress.under_way(Done(30, 2, False), every=60)
    assert len(lines()) == 1, "a log is not written for every look"
    progress.add(40, rejected=3)
    assert "40 of 100 rows" in lines()[-1] and "3 rejected" in lines()[-1]
    progress.under_way(Done(5, 0, False), every=0)
    assert "45 of 100 rows" in progress.line()


def test_the_driver_looks_while_a_batch_runs_and_stops_with_it(tmp_path):
    progress = RowProgress("embed", total=None)
    folder, before = f"{tmp_path}/batch/progress", threading.active_count()
    with rows_from_executors(progress, folder, every=0.01):
        write(folder, 0, 12, 0, False)
        until = time.monotonic() + 10
        while "12 rows" not in progress.line() and time.monotonic() < until:
            time.sleep(0.01)
    assert "12 rows" in progress.line()
    assert threading.active_count() == before
    write(folder, 0, 99, 0, False)
    time.sleep(0.05)
    assert "12 rows" in progress.line()


def test_a_folder_that_cannot_be_read_is_said_and_stops_nothing(tmp_path, lines, monkeypatch):
    def refuse(folder, *, known):
        raise IndexError(f"no access to {folder}")

    monkeypatch.setattr("jobs.driver.progress.read_done", refuse)
    with rows_from_executors(RowProgress("embed", total=1), f"{tmp_path}/p", every=0.01):
        until = time.monotonic() + 10
        while not lines() and time.monotonic() < until:
            time.sleep(0.01)
    assert lines() == [
        f"no progress within the batch: {tmp_path}/p cannot be read: no access to {tmp_path}/p"
    ]
