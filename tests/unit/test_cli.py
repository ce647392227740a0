"""The command line: help worth reading, one line for an error, and a quick start."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from jobs.driver import cli
from jobs.driver.settings import Settings
from udfs.errors import LakeError

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
    for option in ("--config", "--set", "--debug"):
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


def test_an_unknown_command_is_answered_with_the_known_ones() -> None:
    result = run("embed-tabel")
    assert result.exit_code == 2
    assert "No such command 'embed-tabel'" in result.output
    assert "embed-table" in result.output


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
