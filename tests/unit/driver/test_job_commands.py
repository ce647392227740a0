"""Job modules make commands of the right name however they are started, and groups of commands."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.driver.cli import _Jobs

ROOT = Path(__file__).resolve().parents[3]


def test_a_job_started_as_a_script_has_its_own_name():
    # As spark-submit runs it: a file, whose module is __main__.
    code = (
        "import runpy, sys, click\n"
        "made = []\n"
        "click.Command.main = lambda self, *a, **k: made.append(self.name)\n"
        "runpy.run_path('jobs/build_index.py', run_name='__main__')\n"
        "runpy.run_module('jobs.release', run_name='__main__')\n"
        "print(made)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "['build-index', 'release']", done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["build-index", "--help"], "--dry-run"),
        (["release", "--help"], "rollback"),
        (["release", "promote", "--help"], "lake.root"),
        (["release", "rollback", "--help"], "--to INTEGER"),
    ],
)
def test_help_of_commands_and_groups(arguments, expected):
    result = CliRunner().invoke(_Jobs("gme-lake"), arguments)
    assert result.exit_code == 0 and expected in result.output


def test_a_wrong_setting_of_a_groups_command_is_one_message():
    result = CliRunner().invoke(_Jobs("gme-lake"), ["release", "list", "--set", "lake.rooot=x"])
    assert result.exit_code == 1
    assert "unknown setting lake.rooot; did you mean lake.root?" in result.output
