"""What Spark tasks do to build an index: train the quantizer, build shards, check the shards that lie there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.errors import IndexDataError
from udfs.index.drift import quantizer_error
from udfs.index.files import FileRecord, fetch_verified
from udfs.index.manifest import ShardRecord
from udfs.index.resume import publish_quantizer
from udfs.index.shard import ShardWriter
from udfs.index.threads import faiss_threads
from udfs.index.train import train_quantizer
from udfs.index.usage import UsageMeter
from udfs.index.vectors import Floats, Ints, floats_of
from udfs.specs import IndexSpec

TRAIN_INPUT = Columns("embedding array<float>")
TRAIN_OUTPUT = Columns("record string, seconds double, peak_bytes bigint")
SHARD_INPUT = Columns("shard int, vector_id bigint, id string, embedding array<float>")
SHARD_OUTPUT = Columns("shard int, rows bigint, record string, seconds double, peak_bytes bigint")


@dataclass(frozen=True)
class ShardsSpec:
    """An index whose quantizer is trained, and lies in the folder `quantizer_root`."""

    index: IndexSpec
    quantizer: FileRecord
    quantizer_root: str


@gives(TRAIN_OUTPUT)
def train_batches(
    batches: Iterator[pa.RecordBatch], *, spec: IndexSpec
) -> Iterator[pa.RecordBatch]:
    """Train on the first plan.train_rows rows (TRAIN_INPUT, one partition, in a fixed order) and publish the result.

    Yields one TRAIN_OUTPUT row: the QuantizerRecord as JSON, core seconds and peak memory of the task. Memory is the sample
    and its rotated copy. Raises IndexDataError for vectors of another width or norm.
    """
    meter = UsageMeter()
    xt = np.empty((spec.plan.train_rows, spec.dim), dtype=np.float32)
    rows = 0
    for batch in batches:
        if rows < len(xt):
            found = floats_of(batch.column("embedding"), spec.dim, what=_what(spec))[
                : len(xt) - rows
            ]
            xt[rows : rows + len(found)] = found
            rows += len(found)
    data = train_quantizer(xt[:rows], spec.plan, threads=1)
    with faiss_threads(1):
        error = quantizer_error(data, xt[:rows])
    record = publish_quantizer(data, spec.root, rows=rows, error=error)
    yield TRAIN_OUTPUT.batch([json.dumps(asdict(record))], [meter.core_seconds], [meter.peak_bytes])


@gives(SHARD_OUTPUT)
def build_batches(
    batches: Iterator[pa.RecordBatch], *, spec: ShardsSpec
) -> Iterator[pa.RecordBatch]:
    """Build whole shards from SHARD_INPUT rows; yields one SHARD_OUTPUT row a shard: its ShardRecord as JSON, core seconds
    and peak memory of the task for it.

    All rows of a shard come to one task, and together. A row with a null vector_id only names a shard, so that one
    without vectors is built too. Raises IndexDataError for a shard that comes back, and as ShardWriter does.
    """
    index = spec.index
    quantizer = fetch_verified(spec.quantizer_root, spec.quantizer, cache_dir=None).read_bytes()
    finished: set[int] = set()
    with ExitStack() as stack:
        writer: ShardWriter | None = None
        current, meter = -1, UsageMeter()
        for shard, rows in runs_of_shards(batches):
            if writer is None or shard != current:
                if writer is not None:
                    yield _finish(writer, meter)
                    stack.close()
                if shard in finished:
                    raise IndexDataError(f"rows of shard {shard} came in two parts; sort by shard")
                finished.add(shard)
                current, meter = shard, UsageMeter()
                writer = stack.enter_context(
                    ShardWriter(
                        quantizer,
                        shard=shard,
                        root=index.root,
                        work_dir=work_dir(),
                        refine=index.plan.refine,
                    )
                )
            writer.add(*_columns(rows, index))
        if writer is not None:
            yield _finish(writer, meter)


def work_dir() -> str | None:
    """A folder that Spark gave this executor for large files, or None where there is none."""
    folders = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")
    return next((f for f in folders if f and os.access(f, os.W_OK)), tempfile.gettempdir())


def runs_of_shards(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Runs of rows with the same shard, in order."""
    for batch in batches:
        shards = batch.column("shard").to_numpy(zero_copy_only=False)
        starts = [0, *(np.flatnonzero(np.diff(shards)) + 1)] if len(shards) else []
        for start, end in zip(starts, [*starts[1:], len(shards)], strict=True):
            yield int(shards[start]), batch.slice(start, end - start)


def _columns(rows: pa.RecordBatch, spec: IndexSpec) -> tuple[Ints, pa.Array, Floats]:
    if rows.column("vector_id").null_count:  # filtering copies every vector
        rows = rows.filter(rows.column("vector_id").is_valid())
    vector_ids = rows.column("vector_id").to_numpy(zero_copy_only=False).astype(np.int64)
    xb = floats_of(rows.column("embedding"), spec.dim, what=_what(spec))
    return vector_ids, rows.column("id"), xb


def _finish(writer: ShardWriter, meter: UsageMeter) -> pa.RecordBatch:
    record: ShardRecord = writer.finish()
    values = [record.shard, record.rows, json.dumps(asdict(record))]
    values += [meter.core_seconds, meter.peak_bytes]
    return SHARD_OUTPUT.batch(*([value] for value in values))


def _what(spec: IndexSpec) -> str:
    return f"vectors of model {spec.model_id} at version {spec.vectors_version}"
