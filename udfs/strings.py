"""Strings of Arrow columns as Python's; Spark, Delta and Parquet carry strings that are not UTF-8."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from udfs.errors import RowRejected

_QUOTED = re.compile(r"""b?'[^']*'|b?"[^"]*\"""")
_TEXT = (pa.string(), pa.large_string())


def python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The column's values, as `to_pylist` gives them but for strings that are not UTF-8, at which that raises.

    Each of their bytes that is no UTF-8 becomes a lone surrogate (as in Python's file names), so that
    `arrow_strings` gives back the same bytes. Structs and lists may hold such strings too.
    """
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        kind = column.type
        return [_decode(value, kind) for value in column.cast(_as_bytes(kind)).to_pylist()]


def python_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """`batch.to_pylist()` by way of `python_values`."""
    columns = [python_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def arrow_strings(values: Sequence[str | None]) -> pa.Array:
    """A string column of values that came from `python_values`."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        coded = [None if v is None else v.encode("utf-8", "surrogateescape") for v in values]
        return pa.array(coded, pa.binary()).view(pa.string())


def require_utf8(value: str | None, *, what: str) -> None:
    """Raise `RowRejected("not_utf8")`, which names `what`, for a value of `python_values` that is not UTF-8."""
    if value is None:
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        before = len(value[: error.start].encode())
        raise RowRejected(
            "not_utf8",
            f"the {what} is not UTF-8 (byte {before} of it is the first that is not): write it "
            "anew from the encoding that it has",
        ) from None


def is_utf8(value: str) -> bool:
    """Whether a value of `python_values` was UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """`text` with what UTF-8 cannot say spelled out, so that it can stand in a message and a column."""
    return text.encode("utf-8", "backslashreplace").decode()


def without_quotes(message: str, *, limit: int = 200) -> str:
    """A library's message without what it quotes, which is what was read; cut to `limit` characters."""
    return printable(_QUOTED.sub("…", message))[:limit]


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    if kind in _TEXT:
        return pa.binary() if kind == pa.string() else pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_as_bytes(kind.value_type)))
    return kind


def _decode(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if kind in _TEXT:
        return value.decode("utf-8", "surrogateescape")
    if pa.types.is_struct(kind):
        return {field.name: _decode(value[field.name], field.type) for field in kind}
    if pa.types.is_list(kind):
        return [_decode(item, kind.value_type) for item in value]
    return value
