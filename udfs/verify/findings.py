"""One thing that is wrong with an index, located; and how tasks hand it to the driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from udfs.columns import Columns
from udfs.index.vectors import Ints

FINDING_OUTPUT = Columns(
    "shard int, file string, kind string, expected string, found string, rows bigint, "
    "vector_ids array<bigint>"
)
EXAMPLES = 3  # vector_ids that a finding names
COUNTED = (
    "counted"  # kind of a row that is no finding: `rows` is how many there are of what `file` says
)
# What is wrong with a file as such: its contents were not looked at.
FILE_KINDS = ("missing", "length", "sha256", "unreadable")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: in which shard (its number among all, the base's first; None: in none), file or table.

    `rows` it is true of, where they were counted, and a few of their `vector_ids`.
    """

    shard: int | None
    file: str
    kind: str
    expected: str
    found: str
    rows: int = 0
    vector_ids: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = "" if self.shard is None else f"shard {self.shard}, "
        rows = f", {self.rows:,} row(s)" if self.rows else ""
        such = f", such as vector_id {self.vector_ids[0]}" if self.vector_ids else ""
        return f"{where}{self.file}: {self.kind}: expected {self.expected}, found {self.found}{rows}{such}"

    def of_rows(self, vector_ids: Ints) -> Finding:
        """The same of these rows, int64 (n,)."""
        return replace(self, rows=len(vector_ids), vector_ids=tuple(vector_ids[:EXAMPLES].tolist()))


def count(name: str, rows: int) -> Finding:
    """A figure, as a row beside the findings."""
    return Finding(None, name, COUNTED, "", "", rows=rows)


def finding_rows(findings: Iterable[Finding]) -> pa.RecordBatch:
    """FINDING_OUTPUT rows."""
    names = FINDING_OUTPUT.names
    rows = [{name: getattr(finding, name) for name in names} for finding in findings]
    return pa.RecordBatch.from_pylist(rows, schema=FINDING_OUTPUT.arrow)


def merge_findings(rows: Iterable[Any]) -> Iterator[Finding]:
    """Findings of FINDING_OUTPUT rows in order of shard and file; equal ones of several tasks are one, of all their rows."""
    merged: dict[tuple[Any, ...], Finding] = {}
    for row in rows:
        one = Finding(
            row.shard, row.file, row.kind, row.expected, row.found, row.rows, tuple(row.vector_ids)
        )
        key = (one.shard, one.file, one.kind, one.expected, one.found)
        if (before := merged.get(key)) is not None:
            named = tuple(sorted(before.vector_ids + one.vector_ids)[:EXAMPLES])
            one = replace(one, rows=before.rows + one.rows, vector_ids=named)
        merged[key] = one
    return iter(sorted(merged.values(), key=lambda f: (f.shard is None, f.shard, f.file, f.kind)))
