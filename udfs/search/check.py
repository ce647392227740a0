"""The check of a new index before it is committed: every file as recorded, sampled vectors find themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udfs.columns import Columns, gives
from udfs.errors import IndexDataError
from udfs.index.build import ShardsSpec, work_dir
from udfs.index.files import fetch_verified
from udfs.index.manifest import Manifest, ShardRecord
from udfs.index.plan import factory_traits
from udfs.index.vectors import Floats, Ints, floats_of
from udfs.search.index import Index
from udfs.search.opened import ShardFiles
from udfs.specs import SearchOptions

CHECK_OUTPUT = Columns("shard int, checked bigint")
SELF_SCORE = 0.999  # float16 keeps the inner product of a unit vector with itself to about 1e-4
NEIGHBOURS = 10


@dataclass(frozen=True)
class CheckSpec:
    """A built index that is not committed yet."""

    build: ShardsSpec
    shards: tuple[ShardRecord, ...]


@gives(CHECK_OUTPUT)
def check_batches(
    batches: Iterator[pa.RecordBatch], *, spec: CheckSpec
) -> Iterator[pa.RecordBatch]:
    """Check the shards named by SHARD_INPUT rows against the stored vectors in those rows; CHECK_OUTPUT rows.

    Every file of a shard is read against its sha-256, also where no row has a vector. Raises IndexDataError.
    """
    for batch in batches:
        shards = batch.column("shard").to_numpy(zero_copy_only=False)
        for shard in np.unique(shards):
            rows = batch.filter(pa.array(shards == shard))
            rows = rows.filter(rows.column("vector_id").is_valid())
            vector_ids = rows.column("vector_id").to_numpy(zero_copy_only=False).astype(np.int64)
            xq = floats_of(rows.column("embedding"), spec.build.index.dim, what="sampled vectors")
            check_shard(spec, int(shard), vector_ids=vector_ids, xq=xq)
            yield CHECK_OUTPUT.batch([shard], [len(xq)])


def check_shard(spec: CheckSpec, shard: int, *, vector_ids: Ints, xq: Floats) -> None:
    """Open one shard and search it for vectors it must hold: vector_ids int64 (n,), xq float32 (n, dim)."""
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        alone = _open_alone(spec, shard, cache_dir=folder)
        record = spec.shards[shard]
        if record.full_text is not None:
            ShardFiles(record, spec.build.index.root, folder).path(record.full_text)
        lost = find_lost(alone, vector_ids=vector_ids, xq=xq)
        if lost.size:
            q = int(lost[0])
            found = alone.search(xq[q : q + 1], SearchOptions(1))
            raise IndexDataError(
                f"shard {shard} of index {spec.build.index.index_id}: {lost.size} of {len(xq)} stored vectors do not "
                f"find themselves; vector_id {vector_ids[q]} finds {found.I[0, 0]} with score {found.D[0, 0]:.4f}"
            )


def find_lost(index: Index, *, vector_ids: Ints, xq: Floats) -> NDArray[np.intp]:
    """Positions of the vectors xq float32 (n, dim) that do not find themselves, where the index holds all of them.

    One passes where it is found with a score above .999, or where all it finds have such scores: rows of the same
    content have the same vector. Where only lossy codes are kept nothing can be asked of the scores.
    """
    plan = index.manifest.spec.plan
    only_codes = plan.refine == "none" and not factory_traits(plan.factory, xq.shape[1]).lossless
    if not len(xq) or only_codes:
        return np.empty(0, dtype=np.intp)
    found = index.search(xq, SearchOptions(NEIGHBOURS))
    itself = ((vector_ids[:, None] == found.I) & (found.D > SELF_SCORE)).any(axis=1)
    return np.flatnonzero(~(itself | (found.D > SELF_SCORE).all(axis=1)))


def _open_alone(spec: CheckSpec, shard: int, *, cache_dir: str) -> Index:
    """One shard as an index of its own."""
    index, record = spec.build.index, spec.shards[shard]
    alone = replace(index, plan=replace(index.plan, shards=1))
    manifest = Manifest(alone, spec.build.quantizer, (replace(record, shard=0),))
    path = fetch_verified(spec.build.quantizer_root, spec.build.quantizer, cache_dir=cache_dir)
    return Index.of_files(manifest, path, [ShardFiles(record, index.root, cache_dir)])
