"""Search against raw faiss, autofaiss, Spark's own exact search and numpy, on clustered vectors.

    python -m tests.bench.bench_search --rows 100000 --autofaiss

Prints one table: core seconds and peak memory of building, bytes held for a vector, queries per core-second, peak memory
of searching, recall@k against exact search. Every line has a process of its own, one thread, the same quantizer plan and
operating point; Spark's core seconds are of all its processes. Core seconds change little where others use the
machine. Vectors are drawn by `tests.unit.search.indexes.clustered`; how hard they are is printed above the table: the
recall of the codes alone, and the relative contrast (mean distance of a query to the base over the distance to its
nearest neighbour; 1 is as hard as can be).

autofaiss gets an environment of its own in a temporary folder: uv venv + uv pip install of AUTOFAISS; it fails with
newer releases of faiss and numpy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.bench.contenders import Options
from tests.bench.spark_exact import spark_lines
from tests.bench.vectors_table import released_vectors
from tests.unit.search.indexes import clustered
from udfs.index.plan import default_plan, opq_pq_factory
from udfs.recall.recall import recall_at_k

AUTOFAISS = ("autofaiss==2.18.0", "faiss-cpu==1.7.4", "numpy<2", "pyarrow<20")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Line:
    """One way to search; `build` is what `tests.bench.contenders` printed, None where nothing is built."""

    name: str
    search: dict
    queries: int
    recall: float
    build: dict | None = None


class Bench:
    """The data in files, the exact answer, and lines as they are made."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.arguments = folder, arguments
        self.xb, self.xq = _lake(arguments) if arguments.config else _drawn(arguments)
        np.save(folder / "xb.npy", self.xb)
        np.save(folder / "xq.npy", self.xq)
        # The default above 100,000 rows; smaller tables are searched exactly unless they are told not to be.
        factory = opq_pq_factory(arguments.dim)
        plan = default_plan(len(self.xb), arguments.dim, factory=factory, nlist=arguments.nlist)
        self.options = Options(asdict(plan), arguments.k, arguments.nprobe, arguments.k_factor)
        self.lines: list[Line] = []
        self.truth = np.empty(0)

    def build(self, name: str, options: Options) -> dict:
        """Build an index in a process of its own."""
        return self._step("build", name, options)

    def search(
        self, shown: str, name: str, options: Options | None = None, build: dict | None = None
    ) -> Line:
        """Search in a process of its own; the first search is the exact one that others are judged by."""
        done = self._step("search", name, options or self.options)
        found = np.load(self.folder / "found.npy")
        if not len(self.truth):
            self.truth = found
        recall = recall_at_k(found, self.truth, self.arguments.k).value
        self.lines.append(Line(shown, done, len(self.xq), recall, build))
        return self.lines[-1]

    def _step(self, step: str, name: str, options: Options) -> dict:
        command = [sys.executable, "-m", "tests.bench.contenders", step, name, str(self.folder)]
        return _run([*command, json.dumps(asdict(options))])


def _drawn(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    hard = {"clusters": arguments.clusters, "spread": arguments.spread}
    xb = clustered(arguments.rows, arguments.dim, **hard)
    return xb, clustered(arguments.queries, arguments.dim, seed=1, **hard)


def _lake(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """The released vectors of a lake; a random part of them become the queries and are not indexed."""
    x = released_vectors(arguments.config)
    x = x[np.random.default_rng(0).permutation(len(x))]
    arguments.queries = min(arguments.queries, len(x) // 5)
    xq, xb = x[: arguments.queries], np.ascontiguousarray(x[arguments.queries :])
    arguments.rows, arguments.dim = xb.shape
    return xb, xq


def main() -> None:
    """Build the indexes, run every search, print the table."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="gme-bench-") as folder:
        bench = Bench(Path(folder), arguments)
        bench.search("numpy, exact", "numpy")
        bench.search("faiss, Flat", "flat")
        built = bench.build("faiss", bench.options)
        codes = bench.search("faiss, codes", "faiss", build=built)
        bench.search("faiss, codes + fp16 re-rank in memory", "refined", build=built)
        for shards in sorted({1, arguments.shards}):
            _ours(bench, replace(bench.options, shards=shards))
        if arguments.autofaiss:
            _autofaiss(bench, round(codes.build["bytes_per_vector"] * arguments.rows))
        contrast = _contrast(bench)
        if arguments.spark:
            _spark(bench)
        for share in arguments.filters:
            _filtered(bench, replace(bench.options, shards=arguments.shards, allowed=share))
    _print(bench, contrast, codes.recall)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--nlist", type=int, help="default: by rule")
    parser.add_argument("--nprobe", type=int, default=32)
    parser.add_argument("--k-factor", type=int, default=20)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--spread", type=float, default=0.8, help="length of noise over centre")
    parser.add_argument("--config", help="settings of a lake: its released vectors, not drawn ones")
    parser.add_argument("--filters", type=float, nargs="*", default=[0.01, 0.3])
    parser.add_argument("--autofaiss", action="store_true", help="also autofaiss; installs it")
    parser.add_argument("--spark", action="store_true", help="also Spark's own exact search")
    return parser.parse_args()


def _run(command: list[str]) -> dict:
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | ONE_THREAD)
    return json.loads(done.stdout.splitlines()[-1])


def _ours(bench: Bench, options: Options) -> None:
    built = bench.build("ours", options)
    bench.search(f"ours, {options.shards} shard(s)", "ours", options, built)
    if options.shards == bench.arguments.shards:
        bench.search(f"ours, {options.shards} shard(s), as a Spark task", "ours_task", options)


def _autofaiss(bench: Bench, size: int) -> None:
    """The line is left out, and that is said, where the environment cannot be made."""
    environment = bench.folder / "autofaiss"
    uv = str(Path(sys.executable).with_name("uv"))
    python = environment / "bin/python"
    try:
        subprocess.run([uv, "venv", "-q", "-p", sys.executable, str(environment)], check=True)
        install = [uv, "pip", "install", "-q", "-p", str(python), *AUTOFAISS]
        subprocess.run(install, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"autofaiss is LEFT OUT: its environment could not be made: {error}")
        return
    print(f"autofaiss: uv venv DIR; uv pip install -p DIR/bin/python {' '.join(AUTOFAISS)}")
    side = str(Path(__file__).with_name("autofaiss_side.py"))
    arguments = [str(bench.folder), str(size), str(bench.arguments.k)]
    built = _run([str(python), side, "build", *arguments])
    searched = _run([str(python), side, "search", *arguments])
    found = np.load(bench.folder / "found.npy")
    recall = recall_at_k(found, bench.truth, bench.arguments.k).value
    name = f"autofaiss, {built['note']}"
    bench.lines.append(Line(name, searched, len(bench.xq), recall, built))


def _spark(bench: Bench) -> None:
    for name, done in spark_lines(bench.folder / "spark", bench.xb, bench.xq, bench.arguments.k):
        recall = recall_at_k(done["found"], bench.truth[: done["queries"]], bench.arguments.k)
        bench.lines.append(Line(name, done, done["queries"], recall.value))


def _filtered(bench: Bench, options: Options) -> None:
    """A random share of the rows allowed, against exact search over those."""
    mask = np.random.default_rng(0).random(len(bench.xb)) < options.allowed
    np.save(bench.folder / "allowed.npy", np.flatnonzero(mask))
    bench.truth = np.empty(0)
    rows = f"{options.allowed:.0%} of the rows ({int(mask.sum()):,}) allowed"
    bench.search(f"numpy, {rows}", "numpy", options)
    bench.search(f"ours, {options.shards} shard(s), {rows}", "ours_filtered", options)


def _contrast(bench: Bench) -> float:
    """Mean distance to the base over distance to the nearest row, mean over queries (He, Kumar, Chang, ICML 2012)."""
    xb, xq = bench.xb, bench.xq
    sample = xb[np.random.default_rng(0).permutation(len(xb))[:2000]]
    mean = np.sqrt(np.maximum(2 - 2 * xq @ sample.T, 0)).mean(axis=1)
    near = np.sqrt(np.maximum(2 - 2 * np.einsum("qd,qd->q", xq, xb[bench.truth[:, 0]]), 1e-9))
    return float((mean / near).mean())


def _print(bench: Bench, contrast: float, codes_recall: float) -> None:
    asked, plan = bench.arguments, bench.options.plan
    console = Console(width=150)
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {platform.machine()}, faiss {faiss.__version__}; "
        f"{asked.rows:,} × {asked.dim} vectors, {asked.queries} queries outside them; "
        f"{_source(asked)}: relative contrast {contrast:.2f}, recall of codes alone {codes_recall:.3f}\n"
        f"{plan['factory']}, {plan['metric']}, nprobe {asked.nprobe}, k {asked.k}, k_factor {asked.k_factor}"
    )
    table = Table(
        "search", "build core-s", "build peak MB", "bytes/vector held",
        "queries/core-s", "ms a query", "search peak MB", f"recall@{asked.k}",
    )  # fmt: skip
    for line in bench.lines:
        table.add_row(line.name, *_built(line.build), *_searched(line), f"{line.recall:.4f}")
    console.print(table)


def _source(asked: argparse.Namespace) -> str:
    if asked.config:
        return f"released vectors of {asked.config}"
    return f"{asked.clusters} clusters, noise {asked.spread} × centre"


def _built(build: dict | None) -> tuple[str, str, str]:
    if build is None:
        return "", "", ""
    peak = f"{build['peak_bytes'] / 1e6:,.0f}"
    return f"{build['core_seconds']:.1f}", peak, f"{build['bytes_per_vector']:.0f}"


def _searched(line: Line) -> tuple[str, str, str]:
    done = line.search
    per_core_second = line.queries / max(done["core_seconds"], 1e-9)
    shown = f"{per_core_second:,.0f}" if per_core_second >= 10 else f"{per_core_second:.2f}"
    ms = f"{1e3 * done['wall_seconds'] / line.queries:.2f}"
    return shown, ms, f"{done['peak_bytes'] / 1e6:,.0f}"


if __name__ == "__main__":
    main()
