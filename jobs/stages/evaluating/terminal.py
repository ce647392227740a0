"""An evaluation as a table in the terminal."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.stages.evaluating.job import EvaluationReport
from udfs.bootstrap import Difference, Score

_INDENT = {"overall": 0, "class": 1, "pair": 2, "dataset": 3, "task": 3}
_PIPE_WIDTH = 120  # columns where the output is no terminal


def print_evaluation(report: EvaluationReport, *, file: TextIO) -> None:
    """Print every line of the table with its interval, and its difference where another evaluation was given."""
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=_PIPE_WIDTH)
    changes = {(row.level, row.name): row.difference for row in report.differences}
    table = Table(title=f"evaluation {report.evaluation_id}", title_justify="left")
    for name in (
        "",
        "pair",
        "metric",
        "queries",
        "value",
        "95 %",
        *(["change"] if changes else []),
    ):
        table.add_column(name)
    for line in report.lines:
        cells = [
            "  " * _INDENT[line.level] + line.name,
            line.pair or "",
            line.metric,
            f"{line.score.queries:,}",
            f"{line.score.mean:.3f}",
            _bounds(line.score),
        ]
        if changes:
            cells.append(_change(changes[line.level, line.name]))
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    if report.page:
        console.print(Text(f"page: {report.page}"))


def _bounds(score: Score) -> str:
    return f"{score.low:.3f}–{score.high:.3f}"


def _change(change: Difference) -> str:
    return f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
