"""How fast this machine does the steps of a build: each is done once in miniature, on random vectors, and timed."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.index.plan import (
    build_empty,
    inner_index,
    pq_bits,
    transforms,
)
from udfs.index.shard import ShardWriter
from udfs.index.threads import faiss_threads
from udfs.index.train import KMEANS_ITERATIONS, OPQ_ITERATIONS, opq_rows, train_opq
from udfs.index.usage import resident_bytes
from udfs.index.vectors import Floats
from udfs.specs import IndexPlan, IndexSpec

PROBE_OUTPUT = Columns("speed string")
_PRODUCTS = 4e9  # of one timed step: some .05 s of a core, long enough for its clock
_ROWS = (512, 4096)
_SAMPLE_PER_CENTROID = 256  # faiss trains codes on no more rows for each of their centroids


@dataclass(frozen=True)
class Speed:
    """Core seconds that one machine needs for the steps of one plan, and the memory of a worker that has nothing to do."""

    rotation_seconds: float  # training of the rotation, whole
    codes_seconds: float  # training of the codes, whole
    assign_seconds: (
        float  # of a vector to the nearest of all centroids; k-means does it in every iteration
    )
    encode_seconds: float  # of a vector: check, rotate, assign, encode, keep in float16
    byte_seconds: float  # of a byte of a finished file: its checksum
    worker_bytes: int

    def train_seconds(self, train_rows: int) -> float:
        """Training on that many rows."""
        kmeans = self.assign_seconds * train_rows * KMEANS_ITERATIONS
        return self.rotation_seconds + self.codes_seconds + kmeans


@gives(PROBE_OUTPUT)
def probe_batches(
    batches: Iterator[pa.RecordBatch], *, spec: IndexSpec
) -> Iterator[pa.RecordBatch]:
    """One PROBE_OUTPUT row: the `Speed` of this task's machine as JSON. The input has to have a row."""
    for _ in batches:
        pass
    speed = probe(spec.plan, spec.dim)
    yield PROBE_OUTPUT.batch([json.dumps(asdict(speed))])


def probe(plan: IndexPlan, dim: int) -> Speed:
    """Times the steps of building `plan` over vectors of `dim` floats, on one thread; a second or two.

    Everything is what the build does, on fewer rows of noise: constants fitted on one machine were off by a factor of
    two on the next. Raises SettingsError for a factory that faiss cannot build.
    """
    with faiss_threads(1):
        return _probe(plan, dim)


def _probe(plan: IndexPlan, dim: int) -> Speed:
    index = build_empty(plan.factory, dim, metric=plan.metric)
    inner = inner_index(index)
    rows = int(np.clip(_PRODUCTS / (2 * inner.d * max(plan.nlist, 1)), *_ROWS))
    x = _random_unit(rows, dim)
    rotation = _make_rotations(index, x, plan)
    codes, assign = _make_codes(index, x, plan)
    encode = _encode_seconds(index, x, plan) / rows
    byte = _seconds(functools.partial(hashlib.sha256, x.data)) / x.nbytes
    del index, inner, x
    return Speed(
        rotation_seconds=rotation,
        codes_seconds=codes,
        assign_seconds=assign,
        encode_seconds=encode,
        byte_seconds=byte,
        worker_bytes=resident_bytes(),  # by now every library has been used
    )


def _make_rotations(index: Any, x: Floats, plan: IndexPlan) -> float:
    """Gives every rotation a matrix; the seconds that training them takes."""
    bits, total = pq_bits(inner_index(index)), 0.0
    for transform in transforms(index):
        if isinstance(transform, faiss.OPQMatrix):
            start = faiss.RandomRotationMatrix(transform.d_in, transform.d_out)
            start.init(plan.seed)
            transform.A = (
                start.A
            )  # else it begins with a factorisation that only the first iteration has
            sample = _random_unit(min(plan.train_rows, opq_rows(x.shape[1])), x.shape[1])
            train = functools.partial(train_opq, transform, sample, bits=bits, iterations=1)
            # It copies its sample twice before it begins, once and not in every iteration.
            copying = 2 * _seconds(sample.copy)
            total += copying + OPQ_ITERATIONS * max(_seconds(train) - copying, 0.0)
        else:
            total += _seconds(functools.partial(transform.train, x))
        x = np.ascontiguousarray(transform.apply(x))
    return total


def _make_codes(index: Any, x: Floats, plan: IndexPlan) -> tuple[float, float]:
    """Fills centroids and codebooks; seconds of training all codes, and of assigning one vector."""
    if index.is_trained:
        return 0.0, 0.0
    for transform in transforms(index):
        x = np.ascontiguousarray(transform.apply(x))
    inner, assign = inner_index(index), 0.0
    if plan.nlist:  # with its centroids there, faiss trains what follows them alone
        inner.quantizer.train(x)
        inner.quantizer.add(_random_unit(plan.nlist, inner.d))
        assign = _seconds(lambda: inner.quantizer.search(x, 1)) / len(x)
    bits = pq_bits(inner)
    if bits:
        inner.pq.cp.min_points_per_centroid = 1  # it warns on stderr where rows are few
    trained_on = min(plan.train_rows, _SAMPLE_PER_CENTROID * 2**bits) if bits else len(x)
    codes = _seconds(lambda: inner.train(x)) * max(1.0, trained_on / len(x))
    index.is_trained = True
    return codes, assign


def _encode_seconds(index: Any, x: Floats, plan: IndexPlan) -> float:
    """Of all of x, as the task does it."""
    data = bytes(faiss.serialize_index(index).tobytes())
    ids = np.arange(len(x), dtype=np.int64)
    names = pa.array([str(n) for n in ids])
    with (
        tempfile.TemporaryDirectory() as folder,
        ShardWriter(data, shard=0, root=folder, work_dir=folder, refine=plan.refine) as writer,
    ):
        return _seconds(lambda: writer.add(ids, names, x))


def _seconds(step: Callable[[], Any]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def _random_unit(rows: int, dim: int) -> Floats:
    x = np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x
