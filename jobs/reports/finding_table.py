"""What verify-index found, as people read it: a line on the index, then a row for each finding."""

from __future__ import annotations

from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jobs.reports.terminal import open_console
from jobs.stages.verify.verify import Verification


def print_verification(verification: Verification, *, file: TextIO) -> None:
    """Print what was found; long values are wrapped, none is cut."""
    console = open_console(file)
    if verification.ok:
        console.print(Text(str(verification)))
        return
    told = f"index {verification.index_id} in {verification.root} is damaged: {verification.describe()}"
    console.print(Text(told))
    table = Table(box=SIMPLE_HEAD)
    table.add_column("shard", justify="right", no_wrap=True)
    for name in ("file", "kind"):
        table.add_column(name, no_wrap=True)
    for name in ("expected", "found"):
        table.add_column(name, overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("vector_ids", overflow="fold")
    for one in verification.findings:
        table.add_row(
            "" if one.shard is None else str(one.shard),
            *(Text(text) for text in (one.file, one.kind, one.expected, one.found)),
            f"{one.rows:,}" if one.rows else "",
            ", ".join(map(str, one.vector_ids)),
        )
    console.print(table)
