"""Columns declared once: what Spark reads as text and Arrow as a schema."""

import pyarrow as pa
import pytest

from udfs.columns import Columns

HITS = "array<struct<id: string, score: float, ids: array<bigint>>>"
COLUMNS = Columns(f"n int, flag boolean, found {HITS}, more array<array<double>>, image binary")


def test_lists_and_structs_hold_each_other():
    hit = pa.struct([("id", pa.string()), ("score", pa.float32()), ("ids", pa.list_(pa.int64()))])
    assert COLUMNS.arrow == pa.schema(
        [
            ("n", pa.int32()),
            ("flag", pa.bool_()),
            ("found", pa.list_(hit)),
            ("more", pa.list_(pa.list_(pa.float64()))),
            ("image", pa.binary()),
        ]
    )
    assert COLUMNS.names == ["n", "flag", "found", "more", "image"]


def test_a_batch_takes_values_and_arrays_of_every_column():
    columns = Columns("n int, x double")
    batch = columns.batch([1, None], pa.array([0.5, 1.5]))
    assert batch.schema == columns.arrow
    assert batch.to_pylist() == [{"n": 1, "x": 0.5}, {"n": None, "x": 1.5}]
    with pytest.raises(ValueError, match="unequal"):
        columns.batch([1])
    with pytest.raises(pa.ArrowInvalid):
        columns.batch(["one"], [0.5])


@pytest.mark.parametrize("kind", ["text", "INT", "array", "array<>", "struct<a: text>", ""])
def test_an_unknown_type_is_named(kind):
    with pytest.raises(ValueError, match=r"columns have types string, .* found '"):
        Columns(f"id string, n {kind}")
