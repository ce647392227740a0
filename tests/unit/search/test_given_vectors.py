"""Vectors of a user's table: those that can be used come out with length 1, the others with a reason, none is lost."""

import math

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.search.given_vectors import GIVEN_VECTORS, unit_batches

DIM = 3
values = st.one_of(
    st.none(), st.floats(width=32), st.just(0.0), st.sampled_from([1e-45, 3.4e38, -3.4e38])
)
vectors = st.one_of(
    st.none(), st.lists(values, min_size=DIM, max_size=DIM), st.lists(values, max_size=5)
)


def reason(vector: list[float | None] | None) -> str:
    if vector is None:
        return "no_vector"
    if len(vector) != DIM:
        return "wrong_width"
    if any(v is None or not math.isfinite(v) for v in vector):
        return "not_finite"
    return "ok" if any(vector) else "zero_norm"


@settings(deadline=None)
@given(st.lists(vectors, max_size=8), st.integers(0, 3))
def test_every_row_comes_out_as_a_unit_vector_or_with_its_reason(
    given_vectors: list[list[float | None] | None], skipped: int
) -> None:
    names = [f"r{n}" for n in range(len(given_vectors))]
    columns = [pa.array(names, pa.string()), pa.array(given_vectors, pa.list_(pa.float32()))]
    batch = GIVEN_VECTORS.batch(*columns).slice(skipped)  # a slice's lists do not begin at 0
    (out,) = unit_batches(iter([batch]), dim=DIM)
    rows = out.to_pylist()
    assert [row["id"] for row in rows] == names[skipped:]
    assert [row["status"] for row in rows] == [reason(v) for v in given_vectors[skipped:]]
    for row, vector in zip(rows, given_vectors[skipped:], strict=True):
        if row["status"] != "ok":
            assert row["embedding"] is None and row["error"]
            continue
        x = np.asarray(vector, np.float32).astype(np.float64)
        expected = x / np.linalg.norm(x)
        assert row["error"] is None
        np.testing.assert_allclose(row["embedding"], expected, atol=1e-7)
