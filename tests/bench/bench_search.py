"""Search against raw faiss in one process and numpy exact, on clustered vectors: `python -m tests.bench.bench_search`.

Prints one table: queries per core-second and recall@k against exact search, for the same quantizer and operating point.
Core-seconds count all threads of the process, so a shared machine does not change the ratios much. All vectors are
drawn by `tests.unit.ann.indexes.clustered`; how hard they are is printed above the table: the recall of the codes
alone, and the relative contrast (mean distance of a query to the base over the distance to its nearest neighbour;
1 is as hard as can be).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from tests.unit.ann.indexes import FIRST_VECTOR_ID, build, clustered
from udfs.ann.exact import exact_topk
from udfs.ann.live import LiveSearcher
from udfs.ann.plan import build_empty, default_plan, opq_pq_factory
from udfs.ann.recall import recall_at_k
from udfs.ann.search import Searcher
from udfs.ann.train import train_quantizer
from udfs.search import search_batches
from udfs.specs import IndexPlan, SearchSpec

BLOCK = 16_384


@dataclass(frozen=True)
class Data:
    """Base xb (n, d), queries xq (q, d), and the exact answer I (q, k) as rows of xb."""

    xb: np.ndarray
    xq: np.ndarray
    I: np.ndarray
    k: int


@dataclass(frozen=True)
class Line:
    """One way to search."""

    name: str
    core_seconds: float
    queries: int
    recall: float


def main() -> None:
    """Build the indexes, run every search once to warm up and once timed, print the table."""
    arguments = _arguments()
    faiss.omp_set_num_threads(1)
    rows, dim = arguments.rows, arguments.dim
    xb = clustered(rows, dim, clusters=arguments.clusters, spread=arguments.spread)
    xq = clustered(
        arguments.queries, dim, seed=1, clusters=arguments.clusters, spread=arguments.spread
    )
    numpy_line, data = _numpy_exact(xb, xq, arguments.k)
    # The default above 100,000 rows; smaller tables are searched exactly unless they are told not to be.
    plan = default_plan(rows, dim, factory=opq_pq_factory(dim), nlist=arguments.nlist)
    lines = [numpy_line]
    with tempfile.TemporaryDirectory() as folder:
        raw, raw_recall = _raw_faiss(data, plan, arguments)
        lines += raw
        lines += _ours(data, plan, Path(folder), arguments)
    _print(lines, data, plan, codes_recall=raw_recall, arguments=arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--nlist", type=int, help="default: by rule")
    parser.add_argument("--nprobe", type=int, default=32)
    parser.add_argument("--k-factor", type=int, default=20)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--spread", type=float, default=0.8, help="length of noise over centre")
    parser.add_argument("--filters", type=float, nargs="*", default=[0.01, 0.3])
    return parser.parse_args()


def _timed(search: Callable[[np.ndarray], np.ndarray], data: Data, name: str) -> Line:
    """`search` gives rows of xb (q, >=k) for all queries."""
    search(data.xq[:8])
    start = time.process_time()
    found = search(data.xq)
    seconds = time.process_time() - start
    return Line(name, seconds, len(data.xq), recall_at_k(found, data.I, data.k).value)


def _numpy_exact(xb: np.ndarray, xq: np.ndarray, k: int) -> tuple[Line, Data]:
    ids = np.arange(len(xb), dtype=np.int64)

    def search(xq: np.ndarray) -> np.ndarray:
        blocks = ((ids[at : at + BLOCK], xb[at : at + BLOCK]) for at in range(0, len(xb), BLOCK))
        return exact_topk(xq, blocks, k)[1]

    data = Data(xb, xq, search(xq), k)
    return _timed(search, data, "numpy, exact"), data


def _raw_faiss(
    data: Data, plan: IndexPlan, arguments: argparse.Namespace
) -> tuple[list[Line], float]:
    """One faiss index, and faiss's own re-ranking of the same candidates by float16."""
    flat = faiss.IndexFlatIP(data.xb.shape[1])
    flat.add(data.xb)
    index = _trained(data.xb, plan)
    index.add(data.xb)
    parameters = faiss.SearchParametersPreTransform(
        index_params=faiss.SearchParametersIVF(nprobe=arguments.nprobe)
    )
    kept = faiss.IndexScalarQuantizer(
        data.xb.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2
    )
    kept.train(data.xb)
    kept.add(data.xb)
    refined = faiss.IndexRefine(index, kept)
    refining = faiss.IndexRefineSearchParameters(
        k_factor=arguments.k_factor, base_index_params=parameters
    )

    def rerank(xq: np.ndarray) -> np.ndarray:
        return refined.search(xq, data.k, params=refining)[1]

    codes = _timed(lambda xq: index.search(xq, data.k, params=parameters)[1], data, "faiss, codes")
    lines = [
        _timed(lambda xq: flat.search(xq, data.k)[1], data, "faiss, Flat"),
        codes,
        _timed(rerank, data, "faiss, codes + fp16 re-rank (IndexRefine)"),
    ]
    return lines, codes.recall


def _trained(xb: np.ndarray, plan: IndexPlan):
    sample = np.random.default_rng(plan.seed).permutation(len(xb))[: plan.train_rows]
    if not plan.train_rows:
        return build_empty(plan.factory, xb.shape[1], metric=plan.metric)
    return faiss.deserialize_index(
        np.frombuffer(train_quantizer(xb[sample], plan, threads=1), dtype=np.uint8)
    )


def _ours(data: Data, plan: IndexPlan, folder: Path, arguments: argparse.Namespace) -> list[Line]:
    lines, points = [], {"nprobe": arguments.nprobe, "k_factor": arguments.k_factor}
    for shards in sorted({1, arguments.shards}):
        root = folder / str(shards)
        build(root, data.xb, replace(plan, shards=shards), chunk=BLOCK)
        base = Searcher.open(root)

        def search(xq: np.ndarray, base: Searcher = base) -> np.ndarray:
            return base.search(xq, k=data.k, **points).I - FIRST_VECTOR_ID

        lines.append(_timed(search, data, f"ours, {shards} shard(s)"))
    spec = SearchSpec(str(root), "model-a", data.k, **points)
    lines.append(
        _timed(
            lambda xq: _through_arrow(xq, spec, data.k),
            data,
            f"ours, {shards} shard(s), as a Spark task",
        )
    )
    return [*lines, *(_filtered(base, data, share, points) for share in arguments.filters)]


def _through_arrow(xq: np.ndarray, spec: SearchSpec, k: int) -> np.ndarray:
    n = len(xq)
    columns = {
        "query_id": pa.array([str(q) for q in range(n)]),
        "k": pa.nulls(n, pa.int32()),
        "status": pa.repeat("ok", n),
        "error": pa.nulls(n, pa.string()),
        "embedding": pa.array(list(xq), pa.list_(pa.float32())),
    }
    (found,) = search_batches(iter([pa.RecordBatch.from_pydict(columns)]), spec=spec)
    return found["vector_id"].to_numpy().reshape(n, k) - FIRST_VECTOR_ID


def _filtered(base: Searcher, data: Data, share: float, points: dict) -> Line:
    """A random share of the rows allowed, against exact search over those."""
    mask = np.random.default_rng(0).random(len(data.xb)) < share
    rows = np.flatnonzero(mask)
    _, truth = exact_topk(data.xq, [(rows, data.xb[rows])], data.k)
    live = LiveSearcher(base, allowed=rows + FIRST_VECTOR_ID)
    restricted = Data(data.xb, data.xq, truth, data.k)

    def search(xq: np.ndarray) -> np.ndarray:
        return live.search(xq, k=data.k, **points).I - FIRST_VECTOR_ID

    return _timed(search, restricted, f"ours, {share:.2%} of rows ({len(rows):,}) allowed")


def _contrast(data: Data) -> float:
    """Mean distance to the base over distance to the nearest row, mean over queries (He, Kumar, Chang, ICML 2012)."""
    sample = data.xb[np.random.default_rng(0).permutation(len(data.xb))[:2000]]
    mean = np.sqrt(np.maximum(2 - 2 * data.xq @ sample.T, 0)).mean(axis=1)
    nearest = np.sqrt(
        np.maximum(2 - 2 * np.einsum("qd,qd->q", data.xq, data.xb[data.I[:, 0]]), 1e-9)
    )
    return float((mean / nearest).mean())


def _print(
    lines: list[Line],
    data: Data,
    plan: IndexPlan,
    *,
    codes_recall: float,
    arguments: argparse.Namespace,
) -> None:
    console = Console(width=120)
    console.print(
        f"{len(data.xb):,} × {data.xb.shape[1]} vectors, {len(data.xq)} queries outside them; {arguments.clusters} clusters, "
        f"noise {arguments.spread} × centre: relative contrast {_contrast(data):.2f}, recall of codes alone "
        f"{codes_recall:.3f}\n{plan.factory}, {plan.metric}, nprobe {arguments.nprobe}, k {data.k}, "
        f"k_factor {arguments.k_factor}; faiss {faiss.__version__}"
    )
    table = Table("search", "queries/core-s", f"recall@{data.k}")
    for line in lines:
        table.add_row(
            line.name, f"{line.queries / max(line.core_seconds, 1e-9):,.0f}", f"{line.recall:.4f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
