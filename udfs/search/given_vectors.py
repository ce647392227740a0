"""The function handed to mapInArrow by join-similar: vectors of any table in, unit vectors out, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from udfs.columns import Columns, gives

GIVEN_VECTORS = Columns("id string, embedding array<float>")
UNIT_VECTORS = Columns("id string, status string, error string, embedding array<float>")
REASONS = ("no_vector", "wrong_width", "not_finite", "zero_norm")


@gives(UNIT_VECTORS)
def unit_batches(batches: Iterator[pa.RecordBatch], *, dim: int) -> Iterator[pa.RecordBatch]:
    """The vectors of GIVEN_VECTORS batches at length 1; UNIT_VECTORS, a row a row.

    A row whose vector is null, has not `dim` values, holds null, NaN or infinite ones, or has no direction gets one of
    REASONS as its status, an error that says so, and no vector.
    """
    for batch in batches:
        lists = batch.column("embedding")
        lengths = pc.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False)
        whole = np.flatnonzero(lengths == dim)
        flat = lists.take(pa.array(whole)).flatten().to_numpy(zero_copy_only=False)
        # Nulls are NaN; no square of a float32 is too large for a float64.
        x = flat.astype(np.float64).reshape(-1, dim)
        norms = np.sqrt(np.einsum("ij,ij->i", x, x))
        finite = np.isfinite(norms)
        good = finite & (norms > 0)
        status = np.full(batch.num_rows, "ok", dtype=object)
        error = np.full(batch.num_rows, None, dtype=object)
        for reason, at, said in (
            ("no_vector", lengths < 0, "the vector is null"),
            ("not_finite", whole[~finite], "the vector has NaN, infinite or null values"),
            ("zero_norm", whole[finite & ~good], "all values of the vector are 0"),
        ):
            status[at], error[at] = reason, said
        for row in np.flatnonzero((lengths >= 0) & (lengths != dim)):
            status[row] = "wrong_width"
            error[row] = f"the vector has {lengths[row]} values, those it is joined with have {dim}"
        kept = np.zeros(batch.num_rows, dtype=np.bool_)
        kept[whole[good]] = True
        offsets = np.concatenate([[0], np.cumsum(np.where(kept, dim, 0))]).astype(np.int32)
        units = (x[good] / norms[good, None]).astype(np.float32)
        yield UNIT_VECTORS.batch(
            batch.column("id"),
            pa.array(status, pa.string()),
            pa.array(error, pa.string()),
            pa.ListArray.from_arrays(
                pa.array(offsets), pa.array(units.ravel()), mask=pa.array(~kept)
            ),
        )
