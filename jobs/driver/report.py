"""Search results for people: one self-contained HTML page with thumbnails, or a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.driver.html_page import templates, write_html

__all__ = ["Hit", "QueryResult", "print_hits", "templates", "write_search_report"]

_PIPE_WIDTH = 120  # columns where the output is no terminal


@dataclass(frozen=True)
class Hit:
    """One result: `rank` from 1, `score` as the search gives it; `image` is an encoded picture."""

    rank: int
    id: str
    score: float
    title: str | None = None
    image: bytes | None = None


@dataclass(frozen=True)
class QueryResult:
    """A query (`text`, `image` or both) and its hits in rank order."""

    query_id: str
    text: str | None = None
    image: bytes | None = None
    hits: Sequence[Hit] = ()


def write_search_report(
    path: str | Path,
    *,
    title: str,
    queries: Sequence[QueryResult],
    facts: Mapping[str, str],
    note: str | None = None,
) -> Path:
    """Write results as one HTML file that needs no network; returns its path.

    `facts` describe the run (rows embedded, rejects by reason, model, index, timings) and are shown in the order given;
    a line break in a value is kept. `note` stands in a box on top. Pictures become thumbnails inside the file
    (`thumbnails.SIDE`, `thumbnails.MAX_BYTES`); one that cannot be decoded is a neutral tile with the reason. All text
    is escaped. Parent folders are created and an existing file is replaced; OSError where that is not possible.
    """
    values = {"title": title, "queries": queries, "facts": facts, "note": note}
    return write_html(path, template="search_report.html", values=values)


def print_hits(results: Sequence[QueryResult], *, file: TextIO) -> None:
    """Print one table of rank, score, id and title per query; in colour where `file` is a terminal."""
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=_PIPE_WIDTH)
    for result in results:
        table = Table(
            title=_heading(result), title_justify="left", title_style="bold", expand=False
        )
        table.add_column("#", justify="right", style="dim")
        table.add_column("score", justify="right")
        table.add_column("id", no_wrap=True)
        table.add_column("title", overflow="ellipsis", no_wrap=True)
        for hit in result.hits:
            cells = (f"{hit.rank}", f"{hit.score:.4f}", hit.id, hit.title or "")
            table.add_row(*(_plain(cell) for cell in cells))
        console.print(table if result.hits else Text.assemble(_heading(result), ": no hits"))


def _heading(result: QueryResult) -> Text:
    shown = [result.text] if result.text else []
    shown += ["[picture]"] if result.image is not None else []
    return _plain(f"{result.query_id}: {' + '.join(shown)}")


def _plain(text: str) -> Text:
    """Text that neither rich nor the terminal takes as a command (markup, escape sequences)."""
    return Text("".join(c if c.isprintable() else " " for c in text))
