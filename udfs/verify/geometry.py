"""How vectors lie in their space: lengths, common direction, dimensions in use, near duplicates. A model that has
collapsed, or that is not the one it was, shows in these before any search does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udfs.columns import Columns, gives
from udfs.index.vectors import Floats

GEOMETRY_INPUT = Columns("embedding array<float>")
GEOMETRY_OUTPUT = Columns(
    "rows bigint, norm_error double, mean array<double>, effective_rank double, near_duplicates double"
)
OVERLAP_INPUT = Columns("one array<float>, other array<float>")
OVERLAP_OUTPUT = Columns("share double")
NEAR = 0.999  # cosine; of photographs that were encoded anew some .998, of a text with another price the same
_BLOCK = 1024  # rows compared with all others at a time


@dataclass(frozen=True)
class Geometry:
    """Of `rows` vectors: the largest |length - 1|; their mean, of `dim` floats; the effective rank (Roy & Vetterli, 2007):
    exp of the entropy of the covariance's spectrum, from 1 where all differ along one line up to the dimension; the
    share with another row at a cosine of at least `NEAR`.
    """

    rows: int
    norm_error: float
    mean: tuple[float, ...]
    effective_rank: float
    near_duplicates: float

    @property
    def mean_length(self) -> float:
        """Length of the mean: its square is the mean cosine of two rows, 1 where all are the same."""
        return float(np.linalg.norm(self.mean))

    def shift(self, other: Geometry) -> float:
        """Distance of the two means, at most 2."""
        return float(np.linalg.norm(np.subtract(self.mean, other.mean)))


def measure_geometry(x: Floats) -> Geometry:
    """The geometry of x float32 (n, d), n >= 2. Not finite values give a norm_error of infinity and no other figure."""
    lengths = np.linalg.norm(x, axis=1).astype(np.float64)
    if not np.isfinite(lengths).all():
        return Geometry(len(x), float("inf"), (0.0,) * x.shape[1], 0.0, 0.0)
    mean = x.mean(axis=0, dtype=np.float64)
    return Geometry(
        rows=len(x),
        norm_error=float(np.abs(lengths - 1).max()),
        mean=tuple(mean.tolist()),
        effective_rank=_effective_rank(x - mean.astype(np.float32)),
        near_duplicates=_share_near(x / np.maximum(lengths, 1e-12).astype(np.float32)[:, None]),
    )


def _effective_rank(centred: Floats) -> float:
    n, d = centred.shape
    small = centred.T @ centred if d <= n else centred @ centred.T
    spectrum = np.clip(np.linalg.eigvalsh(small.astype(np.float64)), 0, None)
    total = spectrum.sum()
    if total <= 1e-9 * n:  # all rows are the same, but for what float32 loses
        return 1.0
    shares = spectrum[spectrum > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _share_near(unit: Floats) -> float:
    near = 0
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        here = np.arange(len(cosines))
        cosines[here, start + here] = -1
        near += int((cosines.max(axis=1) >= NEAR).sum())
    return near / len(unit)


@gives(GEOMETRY_OUTPUT)
def geometry_batches(batches: Iterator[pa.RecordBatch], *, dim: int) -> Iterator[pa.RecordBatch]:
    """`measure_geometry` of the GEOMETRY_INPUT rows of one partition, of `dim` floats each; no row for fewer than two."""
    flat = [batch.column("embedding").flatten().to_numpy() for batch in batches]
    x = np.concatenate([np.empty(0, np.float32), *flat]).reshape(-1, dim)
    if len(x) < 2:
        return
    yield GEOMETRY_OUTPUT.batch(*[[value] for value in astuple(measure_geometry(x))])


def neighbour_overlap(one: Floats, other: Floats, *, k: int) -> NDArray[np.float64]:
    """Of each row of one (n, d) and other (n, e), the same rows by two models: the share, float64 (n,), of its `k` nearest
    other rows that are the same in both. k < n. By chance it is k / (n - 1).
    """
    if len(one) != len(other) or not 0 < k < len(one):
        raise ValueError(
            f"expected as many rows twice, and 0 < k < n; got {len(one)}, {len(other)}, k={k}"
        )
    shares = np.empty(len(one))
    for start in range(0, len(one), _BLOCK):
        near = [_nearest(x, start=start, k=k) for x in (one, other)]
        common = (near[0][:, :, None] == near[1][:, None, :]).any(axis=2)
        shares[start : start + len(common)] = common.mean(axis=1)
    return shares


def _nearest(x: Floats, *, start: int, k: int) -> NDArray[np.int64]:
    """Numbers (b, k) of the rows nearest to those of a block, themselves left out, in no order."""
    cosines = x[start : start + _BLOCK] @ x.T
    here = np.arange(len(cosines))
    cosines[here, start + here] = -np.inf
    return np.argpartition(cosines, -k, axis=1)[:, -k:]


@gives(OVERLAP_OUTPUT)
def overlap_batches(
    batches: Iterator[pa.RecordBatch], *, dims: tuple[int, int], k: int
) -> Iterator[pa.RecordBatch]:
    """`neighbour_overlap` of the OVERLAP_INPUT rows of one partition, in OVERLAP_OUTPUT rows; none where they are not more
    than `k`. `dims` are the widths of the two.
    """
    held = list(batches)
    sides = [
        np.concatenate(
            [np.empty(0, np.float32), *(b.column(name).flatten().to_numpy() for b in held)]
        ).reshape(-1, dim)
        for name, dim in zip(OVERLAP_INPUT.names, dims, strict=True)
    ]
    if len(sides[0]) > k:
        yield OVERLAP_OUTPUT.batch(neighbour_overlap(*sides, k=k))
