"""How much of a vector a trained quantizer loses: on rows unlike those it was trained on, more."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.index.files import FileRecord, fetch_verified
from udfs.index.plan import inner_index, transforms
from udfs.index.threads import faiss_threads
from udfs.index.vectors import Floats, floats_of

SAMPLE_ROWS = 4096  # the mean of as many squared errors is known to about a hundredth
DRIFT_INPUT = Columns("embedding array<float>")
DRIFT_OUTPUT = Columns("error double")


@dataclass(frozen=True)
class DriftSpec:
    """A trained quantizer for vectors of `dim` floats, in the folder `root`."""

    root: str
    quantizer: FileRecord
    dim: int


def quantizer_error(quantizer: bytes, x: Floats) -> float | None:
    """Mean squared distance of up to 4,096 rows of x float32 (n, dim) from what the quantizer keeps of them.

    What is kept: the centroid of the row's list, and the product code of the rest where there is one. A rotation to
    fewer dimensions loses what lies outside them. None for indexes without inverted lists, which are not added to.
    Of other codes (SQ8) the loss is small and does not grow; there the distance from the centroid is told.
    """
    owner = faiss.deserialize_index(np.frombuffer(quantizer, dtype=np.uint8))
    inner = inner_index(owner)
    if not isinstance(inner, faiss.IndexIVF) or not len(x):
        return None
    x = np.ascontiguousarray(x[:SAMPLE_ROWS])
    turned = functools.reduce(lambda rows, t: t.apply(rows), transforms(owner), x)
    turned = np.ascontiguousarray(turned)
    outside = np.einsum("ij,ij->i", x, x) - np.einsum("ij,ij->i", turned, turned)
    coarse = faiss.downcast_index(inner.quantizer)
    _, lists = coarse.search(turned, 1)
    rest = turned - coarse.reconstruct_batch(lists[:, 0])
    if hasattr(inner, "pq"):
        coded = rest if inner.by_residual else turned
        rest = coded - inner.pq.decode(inner.pq.compute_codes(coded))
    return float((outside + np.einsum("ij,ij->i", rest, rest)).mean(dtype=np.float64))


@gives(DRIFT_OUTPUT)
def drift_batches(
    batches: Iterator[pa.RecordBatch], *, spec: DriftSpec
) -> Iterator[pa.RecordBatch]:
    """`quantizer_error` of the DRIFT_INPUT rows of one partition; one DRIFT_OUTPUT row, none where there are no rows."""
    found = [floats_of(b.column("embedding"), spec.dim, what="new vectors") for b in batches]
    x = np.concatenate([np.empty((0, spec.dim), np.float32), *found])
    data = fetch_verified(spec.root, spec.quantizer, cache_dir=None).read_bytes()
    with faiss_threads(1):
        error = quantizer_error(data, x)
    if error is not None:
        yield DRIFT_OUTPUT.batch([error])
