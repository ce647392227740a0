"""An evaluation for people: one HTML page with the table, its intervals, and good and bad queries with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jobs.reports.html_page import write_html
from udfs.bootstrap import Difference, Score

Differences = Mapping[tuple[str, str], Difference]  # by (level, name) of a line
_SIDES = {"t": "text", "i": "image", "it": "image + text", "vd": "page"}


class Line(Protocol):
    """One line of the table, in the words of `jobs.stages.evaluate.figures.summary.SummaryRow`."""

    @property
    def level(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def pair(self) -> str | None: ...
    @property
    def metric(self) -> str: ...
    @property
    def datasets(self) -> int: ...
    @property
    def score(self) -> Score: ...


@dataclass(frozen=True)
class Shown:
    """A document: text, encoded picture or both; `right`: whether it answers the query."""

    id: str
    text: str | None = None
    image: bytes | None = None
    score: float | None = None
    right: bool = False


@dataclass(frozen=True)
class Example:
    """A query with the value of its task's main metric, its first hits, best first, and a few right documents."""

    query_id: str
    value: float
    text: str | None = None
    image: bytes | None = None
    instruction: str | None = None
    hits: Sequence[Shown] = ()
    wanted: Sequence[Shown] = ()


@dataclass(frozen=True)
class TaskExamples:
    """Queries of one task that went well, and that went badly."""

    name: str
    good: Sequence[Example] = ()
    bad: Sequence[Example] = ()


@dataclass(frozen=True)
class EvaluationPage:
    """What the page shows. `lines` in the table's order; `facts` about the run in theirs.

    `floors`: task to name (chance, BM25 …) to its main metric. `differences`: what they are (`new − old`) to the
    paired difference of each line.
    """

    title: str
    lines: Sequence[Line]
    facts: Mapping[str, str]
    examples: Sequence[TaskExamples] = ()
    floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    differences: Mapping[str, Differences] = field(default_factory=dict)
    note: str | None = None


def write_evaluation_report(path: str | Path, page: EvaluationPage) -> Path:
    """Write the page as one file that needs no network; returns its path.

    Pictures become thumbnails inside the file. All text is escaped. Parent folders are created and an existing file is
    replaced; OSError where that is not possible.
    """
    tasks = {line.name: line for line in page.lines if line.level == "task"}
    values = vars(page) | {
        "floor_names": list(dict.fromkeys(name for of in page.floors.values() for name in of)),
        "pair_words": {line.pair: _pair_words(line.pair) for line in page.lines if line.pair},
        "tasks": tasks,
        "shown": {task.name: number for number, task in enumerate(page.examples, 1)},
    }
    return write_html(path, template="evaluation_report.html", values=values)


def _pair_words(pair: str) -> str:
    """`it2t` as "image + text → text"."""
    query, _, document = pair.partition("2")
    return f"{_SIDES[query]} → {_SIDES[document]}"
