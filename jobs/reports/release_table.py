"""Releases as people read them: when, which model by name, which one is current."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from pyspark.sql import functions as F
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jobs.lake.lake import Lake
from jobs.reports.terminal import open_console


@dataclass(frozen=True)
class ListedRelease:
    """A release with its time, UTC, and the name and version that its model was registered under, if a run tells it."""

    release_id: int
    current: bool
    released_at: datetime
    model_name: str | None
    model_version: str | None
    model_id: str
    vectors_version: int
    index_id: str | None
    note: str | None


def list_releases(lake: Lake, *, limit: int) -> list[ListedRelease]:
    """The last `limit` releases, newest first; the first is the current one."""
    rows = lake.read("releases").orderBy("release_id", ascending=False).head(limit)
    runs = lake.read("run_events").where(F.col("model_id").isin([row.model_id for row in rows]))
    newest = F.max_by(F.struct("model_name", "model_version"), "started_at").alias("model")
    known = runs.where("model_name IS NOT NULL").groupBy("model_id").agg(newest)
    models = {row.model_id: row.model for row in known.collect()}
    listed = []
    for row in rows:
        model = models.get(row.model_id)
        listed.append(
            ListedRelease(
                release_id=row.release_id,
                current=row is rows[0],
                # PySpark hands times over in the time zone of this process.
                released_at=row.released_at.astimezone(UTC),
                model_name=model and model.model_name,
                model_version=model and model.model_version,
                model_id=row.model_id,
                vectors_version=row.vectors_version,
                index_id=row.index_id,
                note=row.note,
            )
        )
    return listed


def print_releases(releases: Sequence[ListedRelease], *, file: TextIO) -> None:
    """Print them as a table; notes alone are cut to the width of the terminal."""
    if not releases:
        file.write("no releases yet; make one with gme-lake release promote\n")
        return
    console = open_console(file)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("release", justify="right", no_wrap=True)
    for name in ("", "released, UTC", "model", "model_id"):
        table.add_column(name, no_wrap=True)
    table.add_column("vectors", justify="right", no_wrap=True)
    table.add_column("index", no_wrap=True)
    table.add_column("note")
    for one in releases:
        model = "" if one.model_name is None else f"{one.model_name} {one.model_version}"
        note = Text("".join(c if c.isprintable() else " " for c in one.note or ""))
        note.no_wrap, note.overflow = True, "ellipsis"
        table.add_row(
            str(one.release_id),
            "current" if one.current else "",
            f"{one.released_at:%Y-%m-%d %H:%M}",
            Text(model),
            one.model_id,
            str(one.vectors_version),
            one.index_id or "",
            note,
        )
    console.print(table)
