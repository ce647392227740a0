"""A check before anything is paid: some rows of the source through everything, and nothing written into the lake."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.reports.previews import previews
from jobs.reports.terminal import open_console
from jobs.settings.embed import EmbedSettings, SourceSettings
from jobs.stages.embed.pending import model_inputs
from jobs.stages.embed.source import Source
from udfs.embed.batches import embed_batches
from udfs.specs import ServingSpec

CHECKED_ROWS = 20
_TEXT_SHOWN = 60  # characters


@dataclass(frozen=True)
class CheckedRow:
    """What became of one row. `picture` is a small copy of what was decoded; `norm` that of the vector, 1 for a good one."""

    id: str
    status: str
    error: str | None
    text: str | None
    picture: str | None
    tokens: int
    norm: float | None


@dataclass(frozen=True)
class Check:
    """The rows, and what the whole table would take: seconds of one model, and of one worker that prepares rows."""

    table: str
    version: int
    rows: list[CheckedRow]
    table_rows: int
    model_seconds: float
    prepare_seconds: float
    folder: str

    def values(self) -> dict[str, object]:
        """The fields, for programs."""
        return asdict(self)


def check_rows(
    lake: Lake,
    *,
    model: ResolvedModel,
    source: SourceSettings,
    embed: EmbedSettings,
    serving: ServingSpec,
) -> Check:
    """Take some rows of the source through template, picture, tokens and model; small pictures go to a new folder.

    Raises LakeError for a source that embed_table would refuse.
    """
    opened = Source.open(lake, source, max_image_bytes=embed.max_image_bytes, written=embed)
    snapshot = opened.read(lake.spark, version=opened.version).where(opened.selection.inside())
    total = snapshot.count()
    # Collected, so that every step sees the same rows: a limit may give others each time.
    chosen = opened.rows(snapshot).where("id IS NOT NULL").limit(CHECKED_ROWS).collect()
    frame = lake.spark.createDataFrame(chosen, opened.rows(snapshot).schema).cache()
    spec = embed.spec(model.spec, serving, opened.reading)
    inputs = model_inputs(frame, key="id")
    made = {row.key: row for row in on_executors(inputs, embed_batches, spec=spec).rows()}
    shown = previews(frame, reading=opened.reading)
    frame.unpersist()
    folder = Path(tempfile.mkdtemp(prefix="gme-lake-check-"))
    rows = []
    for number, row in enumerate(chosen):
        result, picture = made[row.id], shown[row.id][1]
        file = None
        if picture is not None and result.status == "ok":
            file = folder / f"{number}.jpg"
            file.write_bytes(picture)
        vector = result.embedding
        rows.append(
            CheckedRow(
                row.id,
                result.status,
                result.error,
                row.text,
                None if file is None else str(file),
                result.tokens,
                None if vector is None else math.sqrt(sum(x * x for x in vector)),
            )
        )
    per_row = total / len(rows) if rows else 0.0
    return Check(
        opened.table,
        opened.version,
        rows,
        total,
        sum(row.model_seconds for row in made.values()) * per_row,
        sum(row.prepare_seconds for row in made.values()) * per_row,
        str(folder),
    )


def print_check(check: Check, *, file: TextIO) -> None:
    """Print the rows as a table, why some were rejected, and what the whole table would take."""
    console = open_console(file)
    table = Table(box=SIMPLE_HEAD)
    for name in ("id", "status", "text as the model sees it", "picture"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("tokens", "norm"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in check.rows:
        text = "".join(c if c.isprintable() else " " for c in row.text or "")
        table.add_row(
            Text(row.id),
            row.status,
            Text(text[:_TEXT_SHOWN] + ("…" if len(text) > _TEXT_SHOWN else "")),
            Path(row.picture).name if row.picture else "",
            str(row.tokens),
            "" if row.norm is None else f"{row.norm:.4f}",
        )
    console.print(table)
    for row in check.rows:
        if row.error:
            console.print(Text(f"{row.id}: {row.status}: {row.error}"))
    rejected = sum(row.status != "ok" for row in check.rows)
    console.print(
        Text(
            f"{len(check.rows)} of {check.table_rows:,} rows of {check.table} (version {check.version}), {rejected} "
            f"rejected; nothing was written into the lake. Pictures as decoded: {check.folder}\n"
            f"The whole table at this pace: {check.model_seconds / 3600:.2f} h of one model, "
            f"{check.prepare_seconds / 3600:.2f} h of task slots beside it"
        )
    )
