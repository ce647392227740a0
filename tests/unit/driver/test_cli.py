"""The command line: help worth reading, one line for an error, and a quick start."""

import json
import math
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from jobs.driver import cli
from jobs.driver.printing import Report, json_line
from jobs.settings.settings import Settings
from udfs.errors import ActiveRunError, BudgetError, GateError, LakeError, RowsError
from udfs.recall.recall import Recall

JOBS = sorted(
    path.stem.replace("_", "-")
    for path in Path(cli.__file__).parents[1].glob("*.py")
    if path.stem != "__init__"
)


def run(*arguments: str):
    """The result of `gme-lake arguments…` in this process."""
    return CliRunner().invoke(cli.gme_lake(), list(arguments), prog_name="gme-lake")


def commands(command: click.Command) -> list[tuple[list[str], click.Command]]:
    """A job's command, or the commands of its group, with the words after the job's name."""
    if isinstance(command, click.Group):
        return [([name], inner) for name, inner in command.commands.items()]
    return [([], command)]


def leaves() -> list[list[str]]:
    group = cli.gme_lake()
    context = click.Context(group)
    return [[job, *w] for job in JOBS for w, _ in commands(group.get_command(context, job))]


def test_help_lists_every_job_with_a_sentence() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for job in JOBS:
        line = next(line for line in result.output.splitlines() if line.strip().startswith(job))
        assert len(line.split()) > 4, line


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_a_jobs_help_says_what_it_does_and_which_settings_it_reads(words: list[str]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0, result.output
    for option in ("--config", "--set", "--json", "--debug"):
        assert option in result.output
    settings = result.output.partition("Settings (--set SECTION.KEY=VALUE):")[2]
    listed = [
        line.split()[0]
        for line in settings.splitlines()
        if line.startswith("  ") and line[2] != " "
    ]
    assert listed
    for name in listed:
        section, key = name.split(".")
        fields = type(Settings.model_fields[section].default).model_fields
        assert key in {field.alias or name for name, field in fields.items()}
    described = [line for line in settings.splitlines() if line.startswith("      ")]
    assert len(described) == len(listed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--set", "model.checkpont=x"],
            "unknown setting model.checkpont; did you mean model.checkpoint?",
        ),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--set", "model.checkpoint=/nowhere"], "/nowhere"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_1(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    result = run("register-model", "--set", f"lake.root={tmp_path}", *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert words in result.output
    assert "Traceback" not in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("error", [LakeError("no table"), ValueError("bad\n  at Line 1\n  at 2")])
def test_debug_shows_the_traceback_and_nothing_else_does(error: Exception) -> None:
    @cli.job(sections=("lake",), name="failing")
    def command(context: cli.JobContext) -> None:
        """Fail."""
        raise error

    quiet = CliRunner().invoke(command, [])
    assert quiet.exit_code == 1
    assert quiet.output.count("\n") == 1
    assert str(error).splitlines()[0] in quiet.output
    loud = CliRunner().invoke(command, ["--debug"])
    assert loud.exception is error


@pytest.mark.parametrize("words", [["--help"], ["embed-table", "--help"]], ids=" ".join)
def test_help_imports_no_heavy_library(words: list[str]) -> None:
    code = (
        "import sys\nfrom jobs.driver.cli import main\n"
        f"try:\n    main({words})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'pyspark', 'torch', 'transformers', 'mlflow', 'delta', 'pandas'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")


@dataclass(frozen=True)
class Made:
    """What a job might come to."""

    rows: int
    score: float
    where: Path
    parts: tuple[Recall, ...] = ()

    def __str__(self) -> str:
        return f"{self.rows} rows"


def command_of(function) -> click.Command:
    """A job's command from a function without options."""

    @cli.job(sections=("lake",), name="doing")
    def command(context: cli.JobContext) -> Report:
        """Do something."""
        return function(context)

    return command


def outcome(function, *arguments: str):
    """The result of a command that calls `function`."""
    return CliRunner().invoke(command_of(function), list(arguments))


def test_a_report_is_text_for_people_and_one_json_object_for_programs() -> None:
    made = Made(3, math.nan, Path("/lake"), (Recall(0.5, 0.4, 0.6, 0.01, 9, 10),))

    def work(context: cli.JobContext) -> Report:
        click.echo("said on the way")
        print("printed by a library")  # as mlflow does
        return Report.of(
            made,
            when=datetime(2026, 11, 26, tzinfo=UTC),
            named="Düsseldorf \ud800",
            n=np.array([1, 2]),
        )

    assert outcome(work).stdout == "said on the way\nprinted by a library\n3 rows\n"
    result = outcome(work, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "rows": 3,
        "score": None,
        "where": "/lake",
        "parts": [vars(made.parts[0])],
        "when": "2026-11-26T00:00:00+00:00",
        "named": "Düsseldorf \ud800",
        "n": [1, 2],
    }
    assert result.stdout.isascii() and result.stdout.count("\n") == 1
    assert "printed by a library" in result.stderr and "said on the way" in result.stderr


def test_what_was_asked_for_and_not_reached_is_status_1_with_its_report() -> None:
    result = outcome(lambda _: Report("nearest is x", {"met": False}, status=1), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"met": False})


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (LakeError("no table\nof that name"), "no table\nof that name", 1),
        (OSError("disk\nfull"), "OSError: disk", 1),
        (click.UsageError("give --text"), "give --text", 2),
        (GateError("recall is low"), "recall is low", 3),
        (BudgetError("too dear"), "too dear", 4),
        (RowsError("rows are lost"), "rows are lost", 5),
        (ActiveRunError("another run"), "another run", 6),
    ],
)
def test_an_error_has_its_status_and_is_json_too_where_that_was_asked_for(
    error: Exception, said: str, status: int
) -> None:
    def fail(context: cli.JobContext) -> Report:
        raise error

    for arguments in (["--json"], ["--json", "--debug"]):
        result = outcome(fail, *arguments)
        assert result.exit_code != 0
        told = {"error": said, "kind": type(error).__name__, "status": status}
        assert json.loads(result.stdout) == told
        assert result.stderr or result.exception is error
    quiet = outcome(fail)
    assert (quiet.exit_code, quiet.stdout) == (status, "") and said in quiet.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed-tabel"], "No such command 'embed-tabel'; did you mean embed-table?"),
        (["release", "promot"], "No such command 'promot'; did you mean promote?"),
        (["zzz"], "No such command 'zzz'; there are ablate-training, build-index"),
        (["search", "--txt", "x"], "'--text'"),
        (["embed-table", "--source.table=x"], "settings are given as --set source.table=VALUE"),
        (["search", "-k", "many"], "'many' is not a valid integer"),
    ],
)
def test_a_mistake_in_use_names_what_was_meant(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    result = run(*arguments, "--json")
    assert result.exit_code == 2
    assert words in json.loads(result.stdout)["error"]


def test_the_entry_point_returns_after_success_and_exits_with_any_other_status(capsys) -> None:
    assert cli.main(["--version"]) is None
    with pytest.raises(SystemExit) as ended:
        cli.main(["no-such-command"])
    assert ended.value.code == 2


def test_the_version_is_the_packages() -> None:
    stated = tomllib.loads((Path(cli.__file__).parents[2] / "pyproject.toml").read_text())
    result = run("--version")
    assert result.exit_code == 0
    assert result.output == f"gme-lake, version {stated['project']['version']}\n"


WORKING = """
import pathlib, shutil, subprocess, sys, time
from jobs.driver import cli
@cli.job(sections=("lake",), name="working")
def command(context):
    'Work until stopped.'
    folder = pathlib.Path({folder!r})
    folder.mkdir()
    try:
        subprocess.run([sys.executable, "-c", "print('of a process')"])
        (folder / "begun").touch()
        time.sleep(100)
    finally:
        time.sleep({cleaning})
        shutil.rmtree(folder)
        {then}
command()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "then"),
    [
        (signal.SIGINT, 130, ""),
        (signal.SIGTERM, 143, ""),
        (signal.SIGINT, 130, "raise ValueError('the connection was cut')"),
    ],
)
def test_a_stopped_command_cleans_up_and_says_so_in_one_line(
    number: int, status: int, then: str, tmp_path: Path
) -> None:
    folder = tmp_path / "staging"
    code = WORKING.format(folder=str(folder), cleaning=0.3, then=then)
    # A test run in the background has Ctrl-C ignored, and its children would too.
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # schedulers insist; cleaning up goes on
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.splitlines() == ["of a process", "stopped; run again to continue"]
    told = {"error": "stopped; run again to continue", "kind": "Stopped", "status": status}
    assert json.loads(out) == told
    assert not folder.exists()


def test_a_value_without_a_form_in_json_is_an_error_of_ours() -> None:
    with pytest.raises(TypeError, match="which JSON has no form for"):
        json_line({"bytes": b"picture"})
