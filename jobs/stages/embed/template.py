"""The text template: which columns it names, and the text of a row by it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StructType, TimestampType

from jobs.lake.sql import identifier
from udfs.errors import LakeError

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def template_columns(template: str) -> list[str]:
    """Columns a text template names, in order. Raises LakeError where it is not a valid template."""
    return [column for _, column in _template_parts(template) if column]


def text_expression(template: str, *, timestamps: Mapping[str, DataType] | None = None) -> Column:
    """The template as a SQL expression: nulls are empty, ends are trimmed, nothing left is null.

    Columns that are or hold `timestamps` (lower case, with their types) are written in UTC: in a session of another time
    zone a row must not change its text.
    """
    parts: list[Column] = []
    named: list[Column] = []
    for words, name in _template_parts(template):
        if words:
            parts.append(F.lit(words))
        if name:
            column = F.col(identifier(name))
            kind = (timestamps or {}).get(name.lower())
            column = _in_utc(column, kind) if kind is not None else column
            parts.append(F.coalesce(column.cast("string"), F.lit("")))
            named.append(column.isNotNull())
    if not parts:
        return F.lit(None).cast("string")
    some = named[0] if named else F.lit(True)
    for present in named[1:]:
        some = some | present
    trimmed = F.trim(F.concat(*parts))
    return F.when(some & (trimmed != ""), trimmed)


def timestamp_columns(frame: DataFrame) -> dict[str, DataType]:
    """Names, in lower case, and types of the columns whose text depends on the session's time zone."""
    types = {field.name.lower(): field.dataType for field in frame.schema.fields}
    return {name: kind for name, kind in types.items() if _holds_timestamp(kind)}


def _holds_timestamp(kind: DataType) -> bool:
    if isinstance(kind, StructType):
        return any(_holds_timestamp(field.dataType) for field in kind.fields)
    if isinstance(kind, ArrayType):
        return _holds_timestamp(kind.elementType)
    if isinstance(kind, MapType):
        return _holds_timestamp(kind.keyType) or _holds_timestamp(kind.valueType)
    return isinstance(kind, TimestampType)


def _in_utc(column: Column, kind: DataType) -> Column:
    """A value with every timestamp in it as the date and time that it is in UTC, whatever the session's time zone."""
    if isinstance(kind, StructType):
        fields = [
            _in_utc(column.getField(field.name), field.dataType).alias(field.name)
            for field in kind.fields
        ]
        return F.when(column.isNotNull(), F.struct(*fields))
    if isinstance(kind, ArrayType):
        element = kind.elementType
        return F.transform(column, lambda one: _in_utc(one, element))
    if isinstance(kind, MapType):
        keys, values = F.map_keys(column), F.map_values(column)
        keys = _in_utc(keys, ArrayType(kind.keyType))
        return F.map_from_arrays(keys, _in_utc(values, ArrayType(kind.valueType)))
    if not isinstance(kind, TimestampType):
        return column
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
