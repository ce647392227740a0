"""Vectors of known difficulty, and whole indexes built from them in one process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from udfs.index.manifest import GONE_NAME, QUANTIZER_NAME, Base, Manifest, publish_bytes
from udfs.index.plan import default_plan
from udfs.index.shard import ShardWriter
from udfs.index.train import train_quantizer
from udfs.index.vectors import halves_of_floats
from udfs.search.exact import exact_topk
from udfs.search.row_files import write_vector_ids
from udfs.specs import IndexPlan, IndexSpec

FIRST_VECTOR_ID = 10_000_000_000  # beyond 32 bits


def clustered(rows, dim, *, seed=0, clusters=100, spread=0.8):
    """Unit vectors around `clusters` random centres; `spread` is the noise length over the centre's.

    At .8 the nearest neighbours of a held-out query are of its own cluster and nearly as far as each other,
    so codes alone cannot order them: recall@10 of 4-bit codes before re-ranking is about .6.
    """
    centres = np.random.default_rng(1).standard_normal((clusters, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rng = np.random.default_rng(seed + 1000)
    noise = rng.standard_normal((rows, dim)) * spread / np.sqrt(dim)
    x = centres[rng.integers(clusters, size=rows)] + noise
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def shard_of(vector_ids, shards):
    """Any fixed hash will do here; the job's own is tested with the job."""
    return (vector_ids * 2654435761 % 2**32) % shards


def names_of(vector_ids, name="row"):
    return [f"{name}-{vector_id}" for vector_id in vector_ids]


def build(
    root, xb, plan: IndexPlan, *, model_id="model-a", name="row", chunk=1500, first=FIRST_VECTOR_ID
) -> Manifest:
    """Builds and publishes an index as the job does: train, shards in several blocks, manifest."""
    root = str(root)
    vector_ids = np.arange(len(xb), dtype=np.int64) + first
    sample = np.random.default_rng(plan.seed).permutation(len(xb))[: plan.train_rows]
    quantizer = train_quantizer(xb[sample], plan, threads=1)
    record = publish_bytes(quantizer, root, QUANTIZER_NAME)
    shards = []
    for shard in range(plan.shards):
        mine = np.flatnonzero(shard_of(vector_ids, plan.shards) == shard)
        with ShardWriter(quantizer, shard=shard, root=root, refine=plan.refine) as writer:
            for start in range(0, len(mine), chunk):
                rows = mine[start : start + chunk]
                writer.add(vector_ids[rows], names_of(vector_ids[rows], name), xb[rows])
            shards.append(writer.finish())
    spec = IndexSpec("index-1", root, model_id, xb.shape[1], 7, plan)
    manifest = Manifest(spec, record, tuple(shards))
    manifest.write(root)
    return manifest


def extend(base: Manifest, root, gone, x, first) -> Manifest:
    """What build_index writes beside a base to add rows `x`, and to leave rows with the vector_ids `gone` out."""
    vector_ids = np.arange(len(x), dtype=np.int64) + first
    plan = replace(base.spec.plan, shards=1)
    quantizer = (Path(base.spec.root) / base.quantizer.name).read_bytes()
    with ShardWriter(quantizer, shard=0, root=str(root), refine=plan.refine) as writer:
        writer.add(vector_ids, names_of(vector_ids), x)
        shard = writer.finish()
    record = None
    if len(gone):
        batch = pa.RecordBatch.from_arrays([pa.array(gone)], ["vector_id"])
        (written,) = write_vector_ids(iter([batch]), path=f"{root}/{GONE_NAME}")
        sha256 = written.column("sha256")[0].as_py()
        record = replace(base.quantizer, name=GONE_NAME, sha256=sha256, bytes=8 * len(gone))
    spec = replace(
        base.spec, index_id=Path(root).name, root=str(root), vectors_version=8, plan=plan
    )
    manifest = Manifest(
        spec, base.quantizer, (shard,), base=Base(Path(base.spec.root).name, base.shards, record)
    )
    manifest.write(str(root))
    return manifest


def kept_halves(x):
    """What the re-rank file gives back of x float32 (n, d)."""
    return halves_of_floats(x).view("<f2").astype(np.float32)


def ranked_halves(x):
    """What candidates are re-ranked with: the halves, of length 1 again."""
    kept = kept_halves(x)
    return kept / np.linalg.norm(kept, axis=1, keepdims=True)


def exact(xq, xb, k):
    vector_ids = np.arange(len(xb), dtype=np.int64) + FIRST_VECTOR_ID
    return exact_topk(xq, [(vector_ids, xb)], k)


def small_ivf_plan(rows, dim, **choices) -> IndexPlan:
    return default_plan(rows, dim, factory="OPQ8_32,IVF{nlist},PQ8x4fs", **choices)


def flip(path: Path, position: int) -> None:
    """Damages one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)
