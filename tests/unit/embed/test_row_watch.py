"""A row that takes too long ends its worker; the next attempt leaves out that row alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from udfs.embed.row_watch import EXIT_CODE, RowWatch
from udfs.errors import RowRejected

# One attempt of a task: rows "slow…" hang, the way that the second argument says.
ATTEMPT = """
import sys, time
from udfs.errors import RowRejected
from udfs.embed.row_watch import RowWatch
folder, how, *rows = sys.argv[1:]
hang = {
    "loop": lambda: sum(1 for _ in iter(int, 1)),
    "sleep": lambda: time.sleep(60),
}[how]
with RowWatch(folder, seconds=0.3) as watch:
    for row in rows:
        try:
            with watch.row(row):
                if row.startswith("slow"):
                    hang()
            print(row, "ok")
        except RowRejected as error:
            print(row, error.status)
"""


def attempt(folder, how, *rows):
    return subprocess.run(
        [sys.executable, "-c", ATTEMPT, str(folder), how, *rows],
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=30,
        cwd=Path(__file__).resolve().parents[3],
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loop", "sleep"])
def test_the_next_attempt_leaves_out_what_the_last_one_hung_at(tmp_path, how):
    folder = tmp_path / "not yet there" / "slow-rows"
    rows = ["a", "slow é\udcff", "b", "slow 2"]
    first = attempt(folder, how, *rows)
    assert first.returncode == EXIT_CODE
    assert first.stdout.splitlines() in (["a ok"], [])  # what was printed may die with the process
    assert "embed.max_task_seconds_per_row" in first.stderr
    assert attempt(folder, how, *rows).returncode == EXIT_CODE
    third = attempt(folder, how, *[r for r in rows if r.isascii()])
    assert third.returncode == 0
    assert third.stdout.splitlines() == ["a ok", "b ok", "slow 2 too_slow"]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_ends_the_worker_all_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    found = attempt(tmp_path / "file" / "x", "sleep", "slow")
    assert found.returncode == EXIT_CODE
    assert "could not be written" in found.stderr


def test_rows_in_time_are_left_alone_and_the_watch_ends_with_the_task(tmp_path):
    with RowWatch(str(tmp_path), seconds=0.2) as watch:
        for n in range(8):
            with watch.row(str(n)):
                time.sleep(0.05)
        time.sleep(0.3)  # between rows no row is slow
    watch._thread.join(1)
    assert not watch._thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_noted_row_is_rejected_by_name_and_never_begun(tmp_path):
    watch = RowWatch(str(tmp_path), seconds=9)
    watch._write("slow")
    again = RowWatch(str(tmp_path), seconds=9)
    with pytest.raises(RowRejected, match="9 s") as caught, again.row("slow"):
        raise AssertionError("begun")
    assert caught.value.status == "too_slow"
    with again.row("other"):
        pass
