"""Rows as a small HTML table for notebooks: pictures small, vectors by their first numbers, long texts cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyspark.sql import DataFrame

from jobs.reports.hits import Hit
from jobs.reports.html_page import templates
from jobs.reports.thumbnails import Thumbnail, thumbnail

ROWS = 20
NUMBERS = 3  # of a longer list
CHARACTERS = 240
BELOW_PICTURES = 60  # characters of a hit's text


@dataclass(frozen=True)
class ShownRows:
    """A table that a notebook shows as HTML. `is_cut`: there are more rows than these.

    A value that is bytes is taken for an encoded picture; one that is a Hit has picture, score and text.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    is_cut: bool = False

    def _repr_html_(self) -> str:
        cells = [[_cell(value) for value in row] for row in self.rows]
        page = templates().get_template("shown_rows.html")
        return page.render(columns=self.columns, rows=cells, is_cut=self.is_cut)


@dataclass(frozen=True)
class Cell:
    """What a cell shows: a picture, lines of text below it, or one of them. `is_null` and `is_number` are for its style."""

    lines: Sequence[str] = ()
    picture: Thumbnail | None = None
    is_null: bool = False
    is_number: bool = False


def show_rows(rows: DataFrame, *, limit: int = ROWS) -> ShownRows:
    """The first rows of a frame, `limit` at most; no more than these and one are asked for."""
    found = rows.head(limit + 1)
    return ShownRows(rows.columns, found[:limit], is_cut=len(found) > limit)


def _cell(value: Any) -> Cell:
    if value is None:
        return Cell(["null"], is_null=True)
    if isinstance(value, bytes | bytearray):
        return Cell(picture=thumbnail(bytes(value)))
    if isinstance(value, Hit):
        said = [f"{value.score:.4f}", _cut(value.title or "", BELOW_PICTURES), value.id]
        return Cell([line for line in said if line], picture=thumbnail(value.image))
    if isinstance(value, Mapping):
        return Cell([_cut(f"{key}: {_text(one)}") for key, one in value.items()])
    return Cell([_cut(_text(value))], is_number=isinstance(value, int | float))


def _text(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, float):
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.3g}" if abs(value) < 0.001 else f"{value:.4f}".rstrip("0").rstrip(".")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list):
        return _list_text(value)
    return str(value)


def _list_text(values: Iterable[Any]) -> str:
    every = list(values)
    first = ", ".join(map(_text, every[:NUMBERS]))
    return f"[{first}]" if len(every) <= NUMBERS else f"[{first}, …] {len(every):,} values"


def _cut(text: str, length: int = CHARACTERS) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
