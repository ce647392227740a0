"""Training of the quantizer that all shards of an index share."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from udfs.errors import IndexDataError
from udfs.index.plan import (
    build_empty,
    factory_traits,
    inner_index,
    pq_bits,
    require_train_rows,
    transforms,
)
from udfs.index.threads import faiss_threads
from udfs.index.vectors import Floats, unit_vectors
from udfs.specs import IndexPlan

KMEANS_ITERATIONS = (
    5  # ten cost twice as much, and their lists find no more for the codes that are read
)
OPQ_ITERATIONS = 20
OPQ_ROWS = 16_384
OPQ_CODE_ITERATIONS, FIRST_CODE_ITERATIONS = 4, 10  # of the codes within one, and within the first


def train_quantizer(xt: Floats, plan: IndexPlan, *, threads: int) -> bytes:
    """A trained, empty faiss index, serialised.

    `xt` float32 (n, dim), unit vectors, a random sample (not the head of the table: measured .945 → .868
    recall). An index that needs no training takes (0, dim). The bytes depend on xt, plan and `threads`
    alone: another thread count adds floats in another order.

    Raises IndexDataError for bad vectors, SettingsError for too few of them.
    """
    xt = unit_vectors(xt, what="training vectors")
    dim = int(xt.shape[1])
    traits = factory_traits(plan.factory, dim)
    index = build_empty(plan.factory, dim, metric=plan.metric)
    if not traits.trained:
        require_train_rows(len(xt), traits, plan.factory)
        with faiss_threads(threads):
            _train(index, xt, plan.seed)
    if not index.is_trained or index.ntotal:
        raise IndexDataError(f"{plan.factory} was trained on {len(xt)} rows but is not trained")
    return bytes(faiss.serialize_index(index).tobytes())


def train_opq(transform: Any, xt: Floats, *, bits: int, iterations: int = OPQ_ITERATIONS) -> None:
    """Trains a faiss OPQMatrix on xt float32 (n, d_in) for product codes of `bits` bits (0: it is not told).

    The default settings cost minutes for nothing measurable, and always fit 8-bit codes: fitting the codes that
    follow is 10 times cheaper for 4 bits and no worse (recall@10 before re-rank .580, not .567).
    """
    transform.niter = iterations
    transform.max_train_points = opq_rows(transform.d_in)
    transform.niter_pq = OPQ_CODE_ITERATIONS
    transform.niter_pq_0 = OPQ_CODE_ITERATIONS if iterations == 1 else FIRST_CODE_ITERATIONS
    codes = faiss.ProductQuantizer(transform.d_out, transform.M, bits) if bits else None
    transform.pq = codes
    transform.train(xt)
    transform.pq = None  # it borrows `codes`, which dies with this call


def opq_rows(dim: int) -> int:
    """How many rows of `dim` floats an OPQ looks at, at most."""
    return max(OPQ_ROWS, 4 * dim)


def _train(index: Any, xt: Floats, seed: int) -> None:
    inner = inner_index(index)
    for transform in transforms(index):
        if isinstance(transform, faiss.OPQMatrix):
            train_opq(transform, xt, bits=pq_bits(inner))
        else:
            transform.train(xt)
        xt = np.ascontiguousarray(transform.apply(xt))
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.niter = KMEANS_ITERATIONS
        inner.cp.seed = seed
    inner.train(xt)
    index.is_trained = True
