"""An evaluation as a table in the terminal."""

from __future__ import annotations

from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jobs.reports.terminal import open_console
from jobs.stages.evaluate.page.report import EvaluationReport
from udfs.bootstrap import Difference

_INDENT = {"overall": 0, "class": 1, "pair": 2, "dataset": 3, "task": 3}


def print_evaluation(report: EvaluationReport, *, file: TextIO) -> None:
    """Print every line of the table with its interval, the floors of tasks, and differences where there are any."""
    console = open_console(file)
    floors = list(dict.fromkeys(name for of in report.floors.values() for name in of))
    table = Table(
        title=f"evaluation {report.evaluation.evaluation_id}", title_justify="left", box=SIMPLE_HEAD
    )
    for name in ("", "pair", "metric"):
        table.add_column(name)
    for name in ("queries", "value", "95 %", *floors, *report.columns):
        table.add_column(name, justify="right")
    for line in report.lines:
        of_line = report.floors.get(line.name, {}) if line.level == "task" else {}
        cells = [
            "  " * _INDENT[line.level] + line.name,
            line.pair or "",
            line.metric,
            f"{line.score.queries:,}",
            f"{line.score.mean:.3f}",
            f"{line.score.low:.3f}–{line.score.high:.3f}",
            *(f"{of_line[name]:.3f}" if name in of_line else "" for name in floors),
            *(_change(changes[line.level, line.name]) for changes in report.columns.values()),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    if report.indexed:
        through = report.indexed.evaluation
        console.print(Text(f"through {through.search}: evaluation {through.evaluation_id}"))
    if report.page:
        console.print(Text(f"page: {report.page}"), soft_wrap=True)


def _change(change: Difference) -> str:
    return f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
