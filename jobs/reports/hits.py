"""Search results for people: one self-contained HTML page with thumbnails, or a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from jobs.reports.html_page import templates, write_html
from jobs.reports.terminal import open_console

__all__ = ["Hit", "QueryResult", "print_hits", "templates", "write_search_report"]

_PIPE_WIDTH = 120  # columns where the output is no terminal
_BESIDE_IDS = 30  # columns for lines, rank, score and the beginning of a title


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


def print_hits(results: Sequence[QueryResult], *, file: TextIO, page: Path | None = None) -> None:
    """Print one table of rank, score, id and title per query, and where their page is; in colour in a terminal.

    Only titles are cut to the width of the terminal; ranks, scores and ids are there for copying.
    """
    console = open_console(file, pipe_width=_PIPE_WIDTH)
    for result in results:
        table = Table(
            title=_heading(result), title_justify="left", title_style="bold", expand=False
        )
        table.add_column("rank", justify="right", style="dim", no_wrap=True)
        table.add_column("score", justify="right", no_wrap=True)
        longest = max((cell_len(hit.id) for hit in result.hits), default=2)
        width = max(2, min(longest, console.width - _BESIDE_IDS))
        table.add_column("id", width=width, overflow="fold")
        table.add_column("title")
        for hit in result.hits:
            title = _plain(hit.title or "")
            # Of the cell, not the column: rich narrows columns that may wrap before any other.
            title.no_wrap, title.overflow = True, "ellipsis"
            table.add_row(f"{hit.rank}", f"{hit.score:.4f}", _plain(hit.id), title)
        console.print(table if result.hits else Text.assemble(_heading(result), ": no hits"))
    if page is not None:
        console.print(Text(f"report: {page}"), soft_wrap=True)


def _heading(result: QueryResult) -> Text:
    shown = [result.text] if result.text else []
    shown += ["[picture]"] if result.image is not None else []
    return _plain(f"{result.query_id}: {' + '.join(shown)}")


def _plain(text: str) -> Text:
    """Text that neither rich nor the terminal takes as a command (markup, escape sequences)."""
    return Text("".join(c if c.isprintable() else " " for c in text))
