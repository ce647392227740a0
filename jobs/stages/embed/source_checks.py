"""What a source table must be like for a run to end well, checked before the first row is embedded."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from pyspark.sql import functions as F

from jobs.lake.lake import Lake, delta_table, read_table
from jobs.lake.sql import readable
from jobs.settings.embed import EmbedSettings, SourceSettings
from jobs.stages.embed.template import template_columns
from udfs.errors import LakeError

# Types that have no one spelling as a string; a timestamp (not timestamp_ntz) has one for each time zone of a session.
_NO_IDS = ("array", "map", "struct", "binary", "variant", "interval", "void")
_WORD = re.compile(r"\w+")
_NEEDS_MAPPING = set(" ,;{}()\n\t=")
_OF_CHANGES = ("_change_type", "_commit_version", "_commit_timestamp")


@dataclass(frozen=True)
class SourceColumns:
    """The columns of a source table, found as Spark finds them: whatever the case, unless it is told otherwise.

    `lake` is asked what has become of a column that is missing.
    """

    table: str
    types: dict[str, str]
    exact: bool = False
    lake: Lake | None = None

    @classmethod
    def read(cls, lake: Lake, table: str) -> SourceColumns:
        """The columns of a Delta table by name or path."""
        types = dict(read_table(lake.spark, table).dtypes)
        exact = lake.spark.conf.get("spark.sql.caseSensitive", "false") == "true"
        return cls(table, types, exact, lake)

    def find(self, column: str) -> str | None:
        """The table's own spelling of a column, or None. Raises LakeError where several are meant."""
        if column in self.types or self.exact:
            return column if column in self.types else None
        found = [name for name in self.types if name.lower() == column.lower()]
        if len(found) > 1:
            raise LakeError(f"column {column} of {self.table} may be any of {', '.join(found)}")
        return found[0] if found else None

    def type_of(self, column: str) -> str:
        """A column's SQL type. Raises LakeError, with the nearest name and all others, where there is no such column."""
        found = self.find(column)
        if found is not None:
            return self.types[found]
        renamed = _tell_renaming(self.lake, self.table, column) if self.lake else ""
        close = difflib.get_close_matches(column, list(self.types), n=1, cutoff=0.5)
        hint = renamed or (f"; did you mean {close[0]}?" if close else ".")
        raise LakeError(
            f"column {column} is not in {self.table}{hint} It has: {', '.join(self.types)}"
        )


def _tell_renaming(lake: Lake, table: str, column: str) -> str:
    """What the table's history says of a column that was renamed; empty where it says nothing."""
    history = delta_table(lake.spark, table).history().where("operation = 'RENAME COLUMN'")
    old = F.col("operationParameters")["oldColumnPath"]
    renames = history.where(old.isin(column, readable(column)))
    last = renames.orderBy("version", ascending=False).first()
    if last is None:
        return ""
    name = last.operationParameters.get("newColumnPath")
    return f": version {last.version} of the table renamed it to {name}."


def table_properties(lake: Lake, table: str) -> dict[str, str]:
    """Properties of a Delta table, such as delta.appendOnly. Raises LakeError where there is none."""
    row = delta_table(lake.spark, table).detail().select("properties").first()
    return dict(row[0] or {}) if row else {}


def check_id(columns: SourceColumns, row_id: str) -> None:
    """Refuse ids of a type that has no one spelling as a string. Raises LakeError."""
    kind = columns.type_of(row_id)
    if kind.startswith(_NO_IDS) or kind == "timestamp":
        raise LakeError(
            f"source.id={row_id} of {columns.table} is {kind}: expected a column of plain values, such as a string or a "
            "number, that is different in every row"
        )


def check_contents(columns: SourceColumns, settings: SourceSettings) -> None:
    """Refuse a template that is the same text for every row, and nothing to embed at all. Raises LakeError."""
    text = settings.text
    if text.strip() and not template_columns(text):
        meant = _WORD.sub(lambda w: f"{{{w[0]}}}" if columns.find(w[0]) else w[0], text)
        hint = f"did you mean {meant}?" if meant != text else "write {column} where one belongs"
        raise LakeError(
            f"source.text={text!r} has no {{column}} in it, so that every row would have this same text; {hint}"
        )
    if not text.strip() and settings.image is None and settings.image_uri is None:
        raise LakeError("source.text is empty and source.image is null: there is nothing to embed")


def check_written(
    columns: SourceColumns,
    embed: EmbedSettings,
    settings: SourceSettings,
    properties: dict[str, str],
) -> None:
    """Refuse what would let the run fail when its work is done, or change the user's own columns. Raises LakeError."""
    if reserved := [name for name in _OF_CHANGES if columns.find(name)]:
        raise LakeError(
            f"{columns.table} has a column {', '.join(reserved)}, the name of a column of Delta's change feed: rename it"
        )
    if embed.write_back == "none":
        return
    written = [embed.vector_column, embed.model_column]
    if embed.write_back == "view":
        written = ["vector_id", *written]
    if len({name.lower() for name in written}) < len(written):
        raise LakeError(
            f"embed.vector_column={embed.vector_column} and embed.model_column={embed.model_column}: expected different "
            f"names, of {', '.join(written)}"
        )
    taken = {name: found for name in written if (found := columns.find(name)) is not None}
    if embed.write_back == "view":
        _refuse_taken(columns.table, embed, taken)
        return
    if properties.get("delta.appendOnly", "false").lower() == "true":
        raise LakeError(
            f"{columns.table} has delta.appendOnly=true, so that no vector can be written beside its rows: set "
            "embed.write_back to view or none"
        )
    _check_possible(columns, embed, properties)
    _check_own(columns, embed, settings, taken)


def _refuse_taken(table: str, embed: EmbedSettings, taken: dict[str, str]) -> None:
    if not taken:
        return
    names = ", ".join(sorted(taken.values()))
    settings = [
        f"embed.{s}" for s in ("vector_column", "model_column") if getattr(embed, s) in taken
    ]
    change = f"set {' and '.join(settings)} to other names" if settings else "rename it"
    if settings and "vector_id" in taken:
        change = f"rename vector_id, and {change}"
    raise LakeError(
        f"{table} already has a column {names}, which the view of vectors beside its rows is to have: {change}, or set "
        "embed.write_back to columns or none"
    )


def _check_possible(
    columns: SourceColumns, embed: EmbedSettings, properties: dict[str, str]
) -> None:
    """`write_back=columns`: refuse names that Delta cannot add to the table, or cannot write to."""
    table, other = columns.table, "set embed.vector_column and embed.model_column to other names"
    odd = [n for n in (embed.vector_column, embed.model_column) if set(n) & _NEEDS_MAPPING]
    if odd and properties.get("delta.columnMapping.mode", "none").lower() == "none":
        raise LakeError(
            f"{table} takes no column {', '.join(odd)}: Delta allows blanks and any of ,;{{}}()= in names with column "
            f"mapping only (delta.columnMapping.mode=name); turn it on, or {other}"
        )
    has_feed = properties.get("delta.enableChangeDataFeed", "false").lower() == "true"
    ticked = [n for n in (*columns.types, embed.vector_column, embed.model_column) if "`" in n]
    if has_feed and ticked:
        raise LakeError(
            f"Delta cannot change rows of a table with a change feed where a column's name has a backtick in it "
            f"({', '.join(ticked)}), as {table}: rename it, or set embed.write_back to view or none"
        )


def _check_own(
    columns: SourceColumns, embed: EmbedSettings, settings: SourceSettings, taken: dict[str, str]
) -> None:
    """`write_back=columns`: columns of these names must be those that an earlier run has made."""
    table, other = columns.table, "set embed.vector_column and embed.model_column to other names"
    for name, kind in ((embed.vector_column, "array<float>"), (embed.model_column, "string")):
        if name in taken and columns.types[taken[name]] != kind:
            found = columns.types[taken[name]]
            raise LakeError(
                f"column {taken[name]} of {table} is {found}, vectors need {kind}: {other}"
            )
    if len(taken) == 1:
        raise LakeError(
            f"{table} already has a column {', '.join(taken.values())} that embed-table has not made, as the other of "
            f"{embed.vector_column} and {embed.model_column} is missing; it would be written over: {other}"
        )
    read = [settings.id, *template_columns(settings.text), settings.image, settings.image_uri]
    lower = {name.lower() for name in read if name}
    both = [n for n in (embed.vector_column, embed.model_column) if n.lower() in lower]
    if both:
        raise LakeError(
            f"column {', '.join(both)} of {table} is read by section source and written by embed.write_back=columns: "
            f"{other}"
        )


def image_kind(settings: SourceSettings, columns: SourceColumns) -> str:
    """bytes, uri, both or none, by the types of the image columns. Raises LakeError for any other type."""
    column = settings.image
    if settings.image_uri is not None:
        both = {c: columns.type_of(c) if c else None for c in (column, settings.image_uri)}
        if list(both.values()) != ["binary", "string"]:
            raise LakeError(
                f"source.image_uri={settings.image_uri} stands beside an image column of bytes: expected binary and "
                f"string, {columns.table} has {both}"
            )
        return "both"
    if column is None:
        return "none"
    kinds = {"binary": "bytes", "string": "uri"}
    kind = columns.type_of(column)
    if kind not in kinds:
        raise LakeError(
            f"column {column} of {columns.table} is {kind}: expected binary (image bytes) or string (path/URI)"
        )
    return kinds[kind]
