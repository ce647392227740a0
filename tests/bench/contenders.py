"""One way to build or search an index, in a process of its own: `python -m tests.bench.contenders STEP NAME FOLDER OPTIONS`.

FOLDER holds xb.npy and xq.npy; OPTIONS is an `Options` as JSON. Step `build` writes an index there, step `search` reads
it and writes the rows found to NAME.I.npy. Both print JSON: core seconds of all threads, peak memory, bytes of the index.
Searches are tried with a few queries, then timed REPEATS times; the least core seconds count, as other work on the machine
only adds to them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from tests.unit.search.indexes import FIRST_VECTOR_ID, build
from udfs.index.plan import build_empty
from udfs.index.train import train_quantizer
from udfs.index.usage import UsageMeter
from udfs.search.batches import search_batches
from udfs.search.exact import exact_topk
from udfs.search.index import Index
from udfs.specs import IndexPlan, SearchOptions, SearchSpec

BLOCK = 16_384
WARM_QUERIES = 8
REPEATS = 5


@dataclass(frozen=True)
class Options:
    """What every contender is given alike; `shards` and `allowed` (a share of the rows) are those of ours."""

    plan: dict
    k: int
    nprobe: int
    k_factor: int
    shards: int = 1
    allowed: float = 1.0

    @property
    def index_plan(self) -> IndexPlan:
        return replace(IndexPlan(**self.plan), shards=self.shards)


Search = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """One step of one contender."""
    step, name, folder, options = sys.argv[1:5]
    faiss.omp_set_num_threads(1)
    asked = Options(**json.loads(options))
    done = {"build": _build, "search": _search}[step](name, Path(folder), asked)
    print(json.dumps(done))


def _build(name: str, folder: Path, asked: Options) -> dict:
    xb = np.load(folder / "xb.npy")
    meter, start = UsageMeter(), time.perf_counter()
    if name.startswith("ours"):
        build(folder / f"{name}.index", xb, asked.index_plan, chunk=BLOCK)
        held = sum(p.stat().st_size for p in (folder / f"{name}.index").glob("*.faiss"))
    else:
        index = _raw_index(xb, asked.index_plan)
        index.add(xb)
        faiss.write_index(index, str(folder / f"{name}.faiss"))
        held = (folder / f"{name}.faiss").stat().st_size
    return {
        "core_seconds": meter.core_seconds,
        "wall_seconds": time.perf_counter() - start,
        "peak_bytes": meter.peak_bytes,
        "bytes_per_vector": held / len(xb),
    }


def _raw_index(xb: np.ndarray, plan: IndexPlan):
    if not plan.train_rows:
        return build_empty(plan.factory, xb.shape[1], metric=plan.metric)
    sample = np.random.default_rng(plan.seed).permutation(len(xb))[: plan.train_rows]
    trained = train_quantizer(xb[sample], plan, threads=1)
    return faiss.deserialize_index(np.frombuffer(trained, dtype=np.uint8))


def _search(name: str, folder: Path, asked: Options) -> dict:
    xq = np.load(folder / "xq.npy")
    search = {
        "numpy": _numpy,
        "flat": _flat,
        "faiss": _codes,
        "refined": _refined,
        "ours": _ours,
        "ours_task": _ours_task,
        "ours_filtered": _ours_filtered,
    }[name](folder, asked)
    search(xq[:WARM_QUERIES])
    return min((_timed(search, xq, folder) for _ in range(REPEATS)), key=_core_seconds)


def _timed(search: Search, xq: np.ndarray, folder: Path) -> dict:
    meter, start = UsageMeter(), time.perf_counter()
    found = search(xq)
    seconds, wall = meter.core_seconds, time.perf_counter() - start
    np.save(folder / "found.npy", found)
    return {"core_seconds": seconds, "wall_seconds": wall, "peak_bytes": meter.peak_bytes}


def _core_seconds(done: dict) -> float:
    return done["core_seconds"]


def _numpy(folder: Path, asked: Options) -> Search:
    xb, rows = (
        np.load(folder / "xb.npy"),
        np.load(folder / "allowed.npy") if asked.allowed < 1 else None,
    )
    ids = np.arange(len(xb), dtype=np.int64) if rows is None else rows
    xb = xb if rows is None else xb[rows]

    def search(xq: np.ndarray) -> np.ndarray:
        blocks = ((ids[at : at + BLOCK], xb[at : at + BLOCK]) for at in range(0, len(xb), BLOCK))
        return exact_topk(xq, blocks, asked.k)[1]

    return search


def _flat(folder: Path, asked: Options) -> Search:
    xb = np.load(folder / "xb.npy")
    index = faiss.IndexFlatIP(xb.shape[1])
    index.add(xb)
    return lambda xq: index.search(xq, asked.k)[1]


def _codes(folder: Path, asked: Options) -> Search:
    index = faiss.read_index(str(folder / "faiss.faiss"))
    parameters = _parameters(index, asked.nprobe)
    return lambda xq: index.search(xq, asked.k, params=parameters)[1]


def _refined(folder: Path, asked: Options) -> Search:
    """faiss's own re-ranking of the same candidates by float16, held in memory."""
    index, xb = faiss.read_index(str(folder / "faiss.faiss")), np.load(folder / "xb.npy")
    kept = faiss.IndexScalarQuantizer(xb.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2)
    kept.train(xb[:1])
    kept.add(xb)
    del xb
    refined = faiss.IndexRefine(index, kept)
    refining = faiss.IndexRefineSearchParameters(
        k_factor=asked.k_factor, base_index_params=_parameters(index, asked.nprobe)
    )
    return lambda xq: refined.search(xq, asked.k, params=refining)[1]


def _parameters(index, nprobe: int):
    inner = faiss.SearchParametersIVF(nprobe=nprobe)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=inner)
    return inner


def _options(asked: Options) -> SearchOptions:
    return SearchOptions(asked.k, asked.nprobe, asked.k_factor)


def _ours(folder: Path, asked: Options) -> Search:
    base = Index.open(folder / "ours.index")
    return lambda xq: base.search(xq, _options(asked)).I - FIRST_VECTOR_ID


def _ours_task(folder: Path, asked: Options) -> Search:
    """The function that a Spark task runs, Arrow batches in and out."""
    spec = SearchSpec(str(folder / "ours.index"), "model-a", _options(asked))

    def search(xq: np.ndarray) -> np.ndarray:
        n = len(xq)
        columns = {
            "query_id": pa.array([str(q) for q in range(n)]),
            "k": pa.nulls(n, pa.int32()),
            "status": pa.repeat("ok", n),
            "error": pa.nulls(n, pa.string()),
            "embedding": pa.array(list(xq), pa.list_(pa.float32())),
        }
        (found,) = search_batches(iter([pa.RecordBatch.from_pydict(columns)]), spec=spec)
        return found["vector_id"].to_numpy().reshape(n, asked.k) - FIRST_VECTOR_ID

    return search


def _ours_filtered(folder: Path, asked: Options) -> Search:
    rows = np.load(folder / "allowed.npy")
    live = Index.open(folder / "ours.index").restrict(allowed=rows + FIRST_VECTOR_ID)
    return lambda xq: live.search(xq, _options(asked)).I - FIRST_VECTOR_ID


if __name__ == "__main__":
    main()
