"""Blocks of vectors and vector_ids: checks that faiss does not make (shape, finite values, unit norm), halves, sets."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from udfs.errors import IndexDataError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NORM_TOLERANCE = 1e-2  # bfloat16 models are off by some 4e-3; a forgotten normalisation is far more
# Of inner products of unit vectors: float32 sums over thousands of dimensions, and halves that stand for floats. A
# stored vector asked for again scored 1 - 1.1e-6 at the least (3,584 dimensions).
SCORE_TOLERANCE = 1e-5
_FP16 = faiss.ScalarQuantizer.QT_fp16
_SIGN_AND_HALF = np.uint32(0x8FFFE000).view(np.int32)


def clamp(D: Floats) -> Floats:
    """Inner products of unit vectors without what float32 adds beyond -1 and 1; -inf, for no row, stays."""
    return np.where(np.isneginf(D), D, np.clip(D, np.float32(-1), np.float32(1)))


def halves_of_floats(x: Floats) -> NDArray[np.uint8]:
    """Bytes (n, 2·d) of the float16 values nearest to x (n, d), little-endian; numpy takes three times as long.

    Where two are equally near it may take the other one than `x.astype(float16)`.
    """
    codes: NDArray[np.uint8] = faiss.ScalarQuantizer(x.shape[1], _FP16).compute_codes(x)
    return codes


def floats_of_halves(x: NDArray[np.float16]) -> Floats:
    """`x.astype(float32)` for finite little-endian values, exactly, and five times faster than numpy does it.

    The bits of a half, moved up by the 13 that a float's mantissa is longer, are the same number scaled by the
    distance of the two exponents' biases, 2^(15 - 127).
    """
    bits = x.view("<i2").astype(np.int32)  # extends the sign
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_HALF, out=bits)
    floats: Floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)
    return floats


def unit_vectors(x: NDArray[Any], dim: int | None = None, *, what: str) -> Floats:
    """`x` as contiguous float32 (n, dim), or IndexDataError naming the first row that is not a unit vector.

    Under L2 a vector of another length silently changes the answer, and NaN is accepted by faiss.
    """
    if x.ndim != 2:
        raise IndexDataError(f"{what} must be an array (n, dim); got shape {x.shape}")
    if dim is not None and x.shape[1] != dim:
        raise IndexDataError(
            f"{what} have {x.shape[1]} dimensions but the index has {dim}; "
            "embed them with the model the index was built from"
        )
    vectors = np.ascontiguousarray(x, dtype=np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    # NaN compares false, so it counts as bad here.
    bad = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))
    if bad.size:
        row = int(bad[0])
        finite = bool(np.isfinite(vectors[row]).all())
        found = f"norm {norms[row]:.6g}" if finite else "NaN or infinite values"
        raise IndexDataError(
            f"{what} must be finite unit vectors; row {row} has {found} ({bad.size} such of {len(vectors)}); "
            "divide each by its norm, and leave rows without a vector out"
        )
    return vectors


def floats_of(column: pa.ListArray, dim: int, *, what: str) -> Floats:
    """An Arrow column of float lists as float32 (n, dim), without a copy where Arrow allows it.

    Raises IndexDataError for nulls and for lists of another length, with both numbers.
    """
    lengths = pa.compute.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(lengths != dim)
    if bad.size:
        found = "no vector" if lengths[bad[0]] < 0 else f"{lengths[bad[0]]} floats"
        raise IndexDataError(
            f"{what} must have {dim} floats each; {bad.size} of {len(lengths)} rows differ, the first has {found}. "
            "Vectors of one model_id have one width: embed the rows again"
        )
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat, dtype=np.float32).reshape(-1, dim)


def is_in(vector_ids: Ints, named: Ints) -> NDArray[np.bool_]:
    """Whether each of `vector_ids` int64 (n,) is one of `named`, ascending int64 (m,); memory is a few times n."""
    if not named.size:
        return np.zeros(len(vector_ids), dtype=np.bool_)
    at = np.minimum(np.searchsorted(named, vector_ids), len(named) - 1)
    found: NDArray[np.bool_] = named[at] == vector_ids
    return found
