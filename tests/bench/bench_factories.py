"""Which factory an index should have, and which lists a search should read: `python -m tests.bench.bench_factories`.

    python -m tests.bench.bench_factories --rows 100000 --dim 1536 --decay .35 --gap .5
    python -m tests.bench.bench_factories --vectors build/drawn      (of tests.bench.drawn_vectors)

faiss alone, no Spark, no files. First table: factories, with what training and adding cost and what their codes find,
alone and with the best 50, 100 and 200 re-ranked. Second table, of the last factory: the nearest nprobe lists, against
those among them whose centroid is not farther than `ratio` times the squared distance of the nearest one (query-aware
pruning of SPANN, https://arxiv.org/abs/2111.08566, section 3.2). Core seconds are of all threads of this process.

Vectors are drawn around centres; coordinate i has a standard deviation of i^-decay (0: flat), and each of three kinds
of rows (texts, pictures, both) has a mean of its own, `gap` of the centre's length. Queries are texts.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads would count as working

import argparse
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.bench.drawn_vectors import read_vectors, unit
from udfs.index.plan import default_plan, inner_index, transforms
from udfs.index.train import train_quantizer
from udfs.recall.recall import recall_at_k
from udfs.search.exact import exact_topk

FACTORIES = (
    "OPQ64_256,IVF{nlist},PQ64x4fs",
    "OPQ64_128,IVF{nlist},PQ64x4fs",
    "PCAR256,IVF{nlist},PQ64x4fs",
    "PCAR256,IVF{nlist},PQ128x4fs",
    "PCAR128,IVF{nlist},PQ64x4fs",
)
K, NPROBE, RERANKED = 10, 32, (50, 100, 200)
POINTS = [(n, None) for n in (1, 2, 4, 8, 16, 32, 64, 128)]
POINTS += [(n, ratio) for n in (32, 64, 128) for ratio in (1.05, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0)]
BLOCK = 50_000
KINDS = 3


@dataclass
class Spent:
    """Core seconds of a block."""

    seconds: float = 0.0


@contextmanager
def spending() -> Iterator[Spent]:
    """Measure the block."""
    spent, start = Spent(), time.process_time()
    yield spent
    spent.seconds = time.process_time() - start


def main() -> None:
    """Draw or read vectors, build every factory, print both tables."""
    arguments = _arguments()
    threads = arguments.threads
    faiss.omp_set_num_threads(threads)
    xb, xq, told = _read(arguments) if arguments.vectors else _drawn(arguments)
    blocks = (
        (np.arange(s, min(s + BLOCK, len(xb))), xb[s : s + BLOCK]) for s in range(0, len(xb), BLOCK)
    )
    truth = exact_topk(xq, blocks, K)[1]
    table = Table(
        "factory",
        "bytes",
        "train core-s",
        "adds/core-s",
        "queries/core-s",
        "codes",
        *(f"{n}" for n in RERANKED),
    )
    console = Console(width=140)
    index = None
    fit = [f for f in arguments.factories if _width(f) <= xb.shape[1]]
    for factory in fit:
        index = _built(factory, xb, table, xq, truth, arguments)
    console.print(
        f"{len(xb):,} × {xb.shape[1]}, {told}; {len(xq)} queries, nprobe {NPROBE}, {threads} threads; recall@{K}",
        table,
    )
    if fit:
        console.print(f"{fit[-1]}, {RERANKED[-1]} re-ranked", _lists(index, xb, xq, truth))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--decay", type=float, default=0.35)
    parser.add_argument("--gap", type=float, default=0.5)
    parser.add_argument("--spread", type=float, default=1.5)
    parser.add_argument("--rows-per-cluster", type=int, default=100)
    parser.add_argument("--vectors", type=Path, help="folder with xb.npy and xq.npy")
    parser.add_argument("--nlist", type=int, help="default: by rule")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--factories", nargs="*", default=FACTORIES)
    return parser.parse_args()


def _read(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, str]:
    xb, xq = read_vectors(arguments.vectors)
    return xb[: arguments.rows], xq[: arguments.queries], f"of {arguments.vectors}"


def _drawn(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, str]:
    """Unit vectors float32: rows of all kinds, queries of the first."""
    dim, rng = arguments.dim, np.random.default_rng(0)
    scale = np.arange(1, dim + 1, dtype=np.float32) ** -arguments.decay
    scale /= np.linalg.norm(scale)
    clusters = max(1, arguments.rows // arguments.rows_per_cluster)
    centres = rng.standard_normal((clusters, dim), np.float32) * scale
    means = arguments.gap * unit(rng.standard_normal((KINDS, dim), np.float32))

    def fill(x: np.ndarray, seed: int, kinds: int) -> None:
        draw = np.random.default_rng(seed)
        draw.standard_normal(out=x, dtype=np.float32)
        x *= scale * arguments.spread
        x += centres[draw.integers(clusters, size=len(x))]
        x += means[draw.integers(kinds, size=len(x))]
        x /= np.linalg.norm(x, axis=1, keepdims=True)

    xb = np.empty((arguments.rows, dim), np.float32)
    xq = np.empty((arguments.queries, dim), np.float32)
    with ThreadPoolExecutor(arguments.threads) as pool:
        starts = range(0, len(xb), BLOCK)
        list(pool.map(lambda s: fill(xb[s : s + BLOCK], s + 1, KINDS), starts))
    fill(xq, len(xb) + 2, 1)
    return xb, xq, f"decay {arguments.decay}, gap {arguments.gap}, {clusters} clusters"


def _width(factory: str) -> int:
    """Of the vectors behind the rotation, which must not be wider than those before it to be compared here."""
    found = re.match(r"(?:OPQ\d+_|PCAR)(\d+)", factory)
    return int(found[1]) if found else 0


def _built(
    factory: str,
    xb: np.ndarray,
    table: Table,
    xq: np.ndarray,
    truth: np.ndarray,
    arguments: argparse.Namespace,
) -> Any:
    """The index of a factory; adds a line to the table."""
    threads = arguments.threads
    dim = xb.shape[1]
    plan = default_plan(len(xb), dim, factory=factory, nlist=arguments.nlist)
    sample = np.random.default_rng(0).permutation(len(xb))[: plan.train_rows]
    with spending() as train:
        index = faiss.deserialize_index(
            np.frombuffer(train_quantizer(xb[sample], plan, threads=threads), np.uint8)
        )
    faiss.omp_set_num_threads(threads)
    with spending() as add:
        for start in range(0, len(xb), BLOCK):
            index.add(xb[start : start + BLOCK])
    faiss.omp_set_num_threads(1)
    inner = inner_index(index)
    with spending() as search:
        found = _candidates(index, xq, NPROBE, None)[1]
    faiss.omp_set_num_threads(threads)
    table.add_row(
        plan.factory,
        f"{inner.code_size}",
        f"{train.seconds:.1f}",
        f"{len(xb) / add.seconds:,.0f}",
        f"{len(xq) / search.seconds:,.0f}",
        f"{recall_at_k(found, truth, K).value:.3f}",
        *(f"{recall_at_k(_rerank(xq, xb, found[:, :n]), truth, K).value:.4f}" for n in RERANKED),
    )
    return index


def _candidates(
    index: Any, xq: np.ndarray, nprobe: int, ratio: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lists read (q, nprobe), -1 for none, and the best rows (q, 200) by the codes."""
    inner, xr = inner_index(index), xq
    for rotation in transforms(index):
        xr = np.ascontiguousarray(rotation.apply(xr))
    Dq, Iq = inner.quantizer.search(xr, nprobe)
    if ratio is not None:
        Iq = np.where(ratio * Dq[:, :1] < Dq, -1, Iq)  # faiss passes over these
    n = RERANKED[-1]
    D, I = np.empty((len(xr), n), np.float32), np.empty((len(xr), n), np.int64)
    x, *arrays = (faiss.swig_ptr(array) for array in (xr, Iq, Dq, D, I))
    parameters = faiss.SearchParametersIVF(nprobe=nprobe)
    inner.search_preassigned_c(len(xr), x, n, *arrays, False, parameters)
    return Iq, I


def _rerank(xq: np.ndarray, xb: np.ndarray, rows: np.ndarray) -> np.ndarray:
    found = np.full((len(xq), K), -1, np.int64)
    for q, x in enumerate(xq):
        mine = np.sort(rows[q][rows[q] >= 0])
        best = np.argsort(-(xb[mine] @ x), kind="stable")[:K]
        found[q, : len(best)] = mine[best]
    return found


def _lists(index: Any, xb: np.ndarray, xq: np.ndarray, truth: np.ndarray) -> Table:
    table = Table("nprobe", "ratio", "recall", "codes a query", "queries/core-s")
    inner = inner_index(index)
    sizes = np.array([*(inner.invlists.list_size(n) for n in range(inner.nlist)), 0])  # of list -1
    faiss.omp_set_num_threads(1)
    for nprobe, ratio in POINTS:
        with spending() as search:
            lists, found = _candidates(index, xq, nprobe, ratio)
        recall = recall_at_k(_rerank(xq, xb, found), truth, K).value
        table.add_row(
            f"{nprobe}",
            "-" if ratio is None else f"{ratio:g}",
            f"{recall:.4f}",
            f"{sizes[lists].sum() / len(xq):,.0f}",
            f"{len(xq) / search.seconds:,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
