"""Names and values as SQL text: whatever a user calls a column, table or folder, Spark's parser reads it back as is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import datetime

from udfs.errors import LakeError

# A part of a table's name: in backticks (a backtick within is doubled), or plain.
_PART = r"(?:`(?:[^`]|``)+`|[^`./\\]+)"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(rf"{_PART}(?:\.{_PART})*")
# Spark puts variables in place of these in any SQL text, quoted or not (spark.sql.variable.substitute).
_VARIABLE = re.compile(r"\$\{(?:\w+?:)?\S+?\}")

_QUOTED_OR_COMMENT = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|--[^\n]*|/\*.*?\*/""", re.DOTALL
)
_SUBQUERY = re.compile(r"\(\s*(?:select|with|from|table|values)\b", re.IGNORECASE)


def identifier(*parts: str) -> str:
    """A name in SQL: each part in backticks, joined by dots; `identifier("a.b", "c")` is "`a.b`.`c`".

    Spark's functions of Python that parse names (F.col, spark.table, saveAsTable) read it as well.
    Raises LakeError for a name that Spark's SQL cannot say.
    """
    for part in parts:
        if not part:
            raise LakeError(f"a name in SQL cannot be empty, found {parts!r}")
        if _VARIABLE.search(part):
            raise LakeError(
                f"the name {part!r} cannot be used: Spark replaces ${{…}} in SQL by a variable's value; rename it"
            )
    return ".".join("`" + part.replace("`", "``") + "`" for part in parts)


def readable(*parts: str) -> str:
    """As `identifier`, without backticks around parts that need none: for names that people read, too."""
    return ".".join(p if _PLAIN.fullmatch(p) else identifier(p) for p in parts)


def table_sql(name: str) -> str:
    """A table as SQL names it, given by its name (dotted, parts in backticks or not) or its path.

    `main.my-shop.products` is "`main`.`my-shop`.`products`"; a path is "`delta`.`/the/path`".
    Raises LakeError where the name cannot be read.
    """
    return identifier("delta", name) if is_path(name) else identifier(*name_parts(name))


def literal(value: str | bytes | bool | int | float | None) -> str:
    """A value in SQL, under Spark's own escaping of strings (spark.sql.parser.escapedStringLiterals is false)."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value!r}D" if math.isfinite(value) else f"CAST('{value}' AS DOUBLE)"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\u0024{")
    return f"'{escaped}'"


def literals(values: Iterable[str]) -> str:
    """Values as a list within brackets, in order: `'a', 'b'`."""
    return ", ".join(literal(value) for value in sorted(values))


def require_predicate(text: str) -> str:
    """A condition over one table's columns, as it is. Raises LakeError for one with a statement or a subquery in it."""
    plain = _QUOTED_OR_COMMENT.sub(" ", text)
    found = ";" if ";" in plain else _SUBQUERY.search(plain)
    if found is not None:
        shown = found if isinstance(found, str) else found[0]
        raise LakeError(
            f"filter {text!r} must be a condition on the columns of the source, without statements and subqueries; found "
            f"{shown!r} (a column of such a name stands in backticks)"
        )
    return text


def string_array(values: Iterable[str]) -> str:
    """Values as an array of strings, which may be empty."""
    return f"CAST(array({literals(values)}) AS ARRAY<STRING>)"


def timestamp_literal(moment: datetime) -> str:
    """A moment as a timestamp, whatever the session's time zone."""
    return f"timestamp_micros({literal(int(moment.timestamp() * 1e6))})"


def is_path(table: str) -> bool:
    """Whether a table is given as path or URI rather than by name; in a name slashes stand in backticks."""
    return ("/" in table or "\\" in table) and not _NAME.fullmatch(table)


def name_parts(name: str) -> list[str]:
    """The parts of a table's name, without their backticks. Raises LakeError where it cannot be read."""
    if not _NAME.fullmatch(name):
        raise LakeError(
            f"{name!r} is no name of a table: expected parts joined by dots, such as main.gme.products, with those that "
            "have dots or backticks themselves in backticks (a backtick within is doubled)"
        )
    parts = re.findall(_PART, name)
    return [p[1:-1].replace("``", "`") if p.startswith("`") else p for p in parts]
