"""The text template: which columns it names, and the text of a row by it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import TimestampType

from jobs.lake.sql import identifier
from udfs.errors import LakeError

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def template_columns(template: str) -> list[str]:
    """Columns a text template names, in order. Raises LakeError where it is not a valid template."""
    return [column for _, column in _template_parts(template) if column]


def text_expression(template: str, *, timestamps: Collection[str] = ()) -> Column:
    """The template as a SQL expression: nulls are empty, ends are trimmed, nothing left is null.

    Columns that are `timestamps` (lower case) are written in UTC: in a session of another time zone a row must not
    change its text.
    """
    parts: list[Column] = []
    named: list[Column] = []
    for words, name in _template_parts(template):
        if words:
            parts.append(F.lit(words))
        if name:
            column = F.col(identifier(name))
            column = _in_utc(column) if name.lower() in timestamps else column
            parts.append(F.coalesce(column.cast("string"), F.lit("")))
            named.append(column.isNotNull())
    if not parts:
        return F.lit(None).cast("string")
    some = named[0] if named else F.lit(True)
    for present in named[1:]:
        some = some | present
    trimmed = F.trim(F.concat(*parts))
    return F.when(some & (trimmed != ""), trimmed)


def timestamp_columns(frame: DataFrame) -> set[str]:
    """Names, in lower case, of the columns whose text depends on the session's time zone."""
    types = {field.name.lower(): field.dataType for field in frame.schema.fields}
    return {name for name, kind in types.items() if isinstance(kind, TimestampType)}


def _in_utc(column: Column) -> Column:
    """A timestamp as the date and time that it is in UTC, whatever the session's time zone."""
    epoch = F.expr("TIMESTAMP_NTZ'1970-01-01 00:00:00'")
    return F.timestamp_add("MICROSECOND", F.unix_micros(column), epoch)


def _template_parts(template: str) -> Iterator[tuple[str, str]]:
    """(words, column) pairs, either may be empty; a column's name may have everything in it but braces."""
    at = 0
    for found in _FIELD.finditer(template):
        if words := template[at : found.start()]:
            yield words, ""
        at, name = found.end(), found[1]
        if found[0] in {"{{", "}}"}:
            yield found[0][0], ""
        elif not name:
            raise LakeError(
                f"source.text={template!r}: not a template: expected {{column}} between braces, and {{{{ or }}}} for a "
                f"brace itself; found {found[0]!r} at character {found.start() + 1}"
            )
        else:
            yield "", name
    if words := template[at:]:
        yield words, ""
