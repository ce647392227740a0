"""The columns of rows that a function handed to Spark takes or gives, declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa

Function = TypeVar("Function", bound=Callable[..., Any])

_KINDS = {
    "string": pa.string(),
    "binary": pa.binary(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
}


class Columns:
    """Names and types, in order: `ddl` as Spark writes them, `arrow` as a schema. Each may be null.

    Raises ValueError for a type that is none of `_KINDS`, nor an array or a struct of such.
    """

    def __init__(self, ddl: str) -> None:
        self.ddl = ddl
        self.arrow = pa.schema(_fields(ddl))
        self.names: list[str] = self.arrow.names

    def batch(self, *columns: Any) -> pa.RecordBatch:
        """A batch of one array or sequence of values for each column, in their order."""
        return pa.RecordBatch.from_arrays(list(columns), schema=self.arrow)


def gives(columns: Columns) -> Callable[[Function], Function]:
    """Declare what the decorated function yields, for `jobs.driver.on_executors`; pickle still finds it by its name."""

    def declare(function: Function) -> Function:
        function.gives = columns  # type: ignore[attr-defined]
        return function

    return declare


def _fields(ddl: str) -> list[pa.Field]:
    """Of `name type, …`, in a struct `name: type, …`; commas within `<…>` belong to a type."""
    found, start, depth = [], 0, 0
    for at, letter in enumerate(f"{ddl},"):
        depth += (letter == "<") - (letter == ">")
        if letter == "," and not depth:
            name, _, kind = ddl[start:at].strip().partition(" ")
            found.append(pa.field(name.removesuffix(":"), _kind(kind)))
            start = at + 1
    return found


def _kind(text: str) -> pa.DataType:
    outer, _, inner = text.removesuffix(">").partition("<")
    if outer == "array" and inner:
        return pa.list_(_kind(inner))
    if outer == "struct" and inner:
        return pa.struct(_fields(inner))
    if text not in _KINDS:
        raise ValueError(
            f"columns have types {', '.join(_KINDS)}, array<…> or struct<…>; found {text!r}"
        )
    return _KINDS[text]
