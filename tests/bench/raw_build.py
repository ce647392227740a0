"""One raw faiss process that builds an index: `python -m tests.bench.raw_build VECTORS PLAN OUT`; prints JSON.

VECTORS is a .npy file (mapped and copied to memory before the clock starts) or a folder of Parquet files (read under the
clock); PLAN an IndexPlan as JSON. The same training as the job's, one thread, one index, written to OUT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq

from udfs.index.train import train_quantizer
from udfs.index.usage import UsageMeter
from udfs.specs import IndexPlan


def main() -> None:
    """Read, train, add, write."""
    source, plan, out = Path(sys.argv[1]), IndexPlan(**json.loads(sys.argv[2])), sys.argv[3]
    faiss.omp_set_num_threads(1)
    xb = np.ascontiguousarray(np.load(source, mmap_mode="r")) if source.suffix == ".npy" else None
    meter, marks = UsageMeter(), []
    if xb is None:
        xb = _read(source)
    marks.append(meter.core_seconds)
    sample = np.random.default_rng(plan.seed).permutation(len(xb))[: plan.train_rows]
    quantizer = train_quantizer(xb[np.sort(sample)], plan, threads=1)
    index = faiss.deserialize_index(np.frombuffer(quantizer, dtype=np.uint8))
    marks.append(meter.core_seconds)
    index.add(xb)
    marks.append(meter.core_seconds)
    faiss.write_index(index, out)
    marks.append(meter.core_seconds)
    steps = np.diff([0.0, *marks]).tolist()
    found = dict(zip(("read", "train", "add", "write"), steps, strict=True))
    print(json.dumps(found | {"total": marks[-1], "peak_bytes": meter.peak_bytes}))


def _read(folder: Path) -> np.ndarray:
    """The vectors of all files in one array; memory is those and one file."""
    files = sorted(folder.glob("*.parquet"))
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    xb, done = None, 0
    for file in files:
        column = pq.read_table(file, columns=["embedding"], use_threads=False)["embedding"]
        block = column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)
        if xb is None:
            xb = np.empty((rows, block.shape[1]), np.float32)
        xb[done : done + len(block)] = block
        done += len(block)
    return xb


if __name__ == "__main__":
    main()
