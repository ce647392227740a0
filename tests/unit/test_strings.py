"""Strings that are not UTF-8 go through Python and come out as the same bytes."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.errors import RowRejected
from udfs.strings import (
    arrow_strings,
    is_utf8,
    printable,
    python_rows,
    python_values,
    require_utf8,
)


def strings(values):
    return pa.array(values, pa.binary()).view(pa.string())


@settings(deadline=None)
@given(st.lists(st.none() | st.binary(max_size=8)))
def test_any_bytes_come_back(values):
    column = strings(values)
    found = python_values(column)
    assert arrow_strings(found).equals(column)
    for value, text in zip(values, found, strict=True):
        try:
            expected = None if value is None else value.decode()
        except UnicodeDecodeError:
            assert not is_utf8(text)
            with pytest.raises(RowRejected, match="caption"):
                require_utf8(text, what="caption")
            printable(text).encode()
        else:
            assert text == expected
            require_utf8(text, what="caption")


def test_the_reason_says_where_and_not_what():
    (text,) = python_values(strings(["é".encode() + b"SECRET\xff"]))
    with pytest.raises(RowRejected) as caught:
        require_utf8(text, what="text")
    assert caught.value.status == "not_utf8"
    assert "byte 8 " in caught.value.detail
    assert "SECRET" not in caught.value.detail


def test_strings_inside_of_lists_and_structs():
    item = pa.StructArray.from_arrays([strings([b"\xff", b"a", None]), pa.array([1, 2, 3])], "sn")
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), item)
    batch = pa.RecordBatch.from_arrays([lists, pa.array([b"\xff", b"b"])], ["found", "image"])
    assert python_rows(batch) == [
        {"found": [{"s": "\udcff", "n": 1}, {"s": "a", "n": 2}], "image": b"\xff"},
        {"found": [{"s": None, "n": 3}], "image": b"b"},
    ]
    assert python_values(pa.chunked_array([strings([b"\xff"]), strings([b"a"])])) == ["\udcff", "a"]
