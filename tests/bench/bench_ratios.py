"""The ratios that an index has to reach, each measured in one run: `python -m tests.bench.bench_ratios`.

One process, no Spark, one thread. Vectors are drawn by `tests.unit.search.indexes.clustered` (noise .8 of the centre's
length); the goals and where they come from stand beside the figures. Builds through Spark are in
`tests.bench.bench_build`, targets met on unseen queries in `tests.bench.bench_tune`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, extend, flip
from udfs.errors import IndexDataError
from udfs.index.plan import default_plan, opq_pq_factory
from udfs.recall.recall import recall_at_k
from udfs.search.exact import exact_topk
from udfs.search.index import Index
from udfs.specs import IndexPlan, SearchOptions

K, NPROBE, K_FACTOR = 10, 32, 20
OPTIONS = SearchOptions(K, NPROBE, K_FACTOR)
REPEATS = 3


@dataclass(frozen=True)
class Ratio:
    """One line of the table."""

    what: str
    goal: str
    found: str
    met: bool


class Bench:
    """Vectors, their exact answer, and indexes of one and of several shards."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.arguments = folder, arguments
        rows, dim = arguments.rows, arguments.dim
        self.xb = clustered(rows, dim, clusters=arguments.clusters)
        self.xq = clustered(arguments.queries, dim, clusters=arguments.clusters, seed=1)
        self.ids = np.arange(rows, dtype=np.int64) + FIRST_VECTOR_ID
        self.truth = self.exact(np.ones(rows, bool))
        self.plan = default_plan(rows, dim, factory=opq_pq_factory(dim), nlist=arguments.nlist)
        self.single = self.open(replace(self.plan, shards=1))
        self.sharded = self.open(replace(self.plan, shards=arguments.shards))

    def open(self, plan: IndexPlan) -> Index:
        """An index of all rows, built and opened."""
        root = self.folder / f"{plan.factory}-{plan.shards}"
        build(root, self.xb, plan, chunk=16_384)
        return Index.open(root)

    def exact(self, alive: np.ndarray) -> np.ndarray:
        """vector_ids (q, K) of the nearest rows that are `alive`."""
        rows = np.flatnonzero(alive)
        blocks = (rows[at : at + 16_384] for at in range(0, len(rows), 16_384))
        return exact_topk(self.xq, ((self.ids[r], self.xb[r]) for r in blocks), K)[1]

    def recall(self, I: np.ndarray) -> float:
        """Against the exact answer over all rows."""
        return recall_at_k(I, self.truth, K).value


def main() -> None:
    """Measure every ratio and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--nlist", type=int, help="default: by rule")
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--damages", type=int, default=300, help="files damaged, one bit or a cut")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gme-bench-") as folder:
        bench = Bench(Path(folder), arguments)
        table = Table("ratio", "goal", "measured", "met")
        for measure in (_against_flat, _sharding, _halves, _tombstones, _fresh, _added, _damages):
            for line in measure(bench):
                table.add_row(line.what, line.goal, line.found, "yes" if line.met else "NO")
        Console(width=130).print(
            f"{arguments.rows:,} × {arguments.dim} vectors in {arguments.clusters} clusters, {arguments.queries} queries "
            f"outside them, {bench.plan.factory}, nprobe {NPROBE}, k {K}, k_factor {K_FACTOR}, {os.cpu_count()} cores",
            table,
        )


def _against_flat(bench: Bench) -> list[Ratio]:
    """Re-ranked codes against whole vectors in the same lists."""
    nlist = bench.plan.nlist
    lists = faiss.index_factory(bench.arguments.dim, f"IVF{nlist},Flat", faiss.METRIC_INNER_PRODUCT)
    lists.cp.niter = 10
    lists.train(bench.xb[np.random.default_rng(0).permutation(len(bench.xb))[: 64 * nlist]])
    lists.add(bench.xb)
    parameters = faiss.SearchParametersIVF(nprobe=NPROBE)
    whole = bench.recall(lists.search(bench.xq, K, params=parameters)[1] + FIRST_VECTOR_ID)
    ours = bench.recall(_search(bench.single, bench))
    found = f"{ours / whole:.4f} ({ours:.4f} / {whole:.4f})"
    return [
        Ratio("recall after re-rank / IVF,Flat, same nprobe", "≥ .99", found, ours >= 0.99 * whole)
    ]


def _sharding(bench: Bench) -> list[Ratio]:
    """Several shards against one."""
    one, many = _search(bench.single, bench), _search(bench.sharded, bench)
    lost = bench.recall(one) - bench.recall(many)
    cost, lists = _costs(bench, bench.sharded, bench.single), bench.plan.nlist
    per_list = len(bench.xb) / bench.arguments.shards / lists
    return [
        Ratio(f"{bench.arguments.shards} shards: recall lost", "≤ .002", f"{lost:.4f}", lost <= 0.002),
        Ratio(
            f"{bench.arguments.shards} shards: CPU of a search / one shard ({per_list:.0f} codes a list and shard)",
            "≤ 2.3 below 50 codes", f"{cost:.2f}", cost <= 2.3 or per_list > 50,
        ),
    ]  # fmt: skip


def _halves(bench: Bench) -> list[Ratio]:
    """float16 against float32 for the last step, over the same candidates."""
    ours = bench.recall(_search(bench.single, bench))
    index, rows = bench.single, []
    n = index.count_candidates(OPTIONS)
    for start in range(0, len(bench.xq), 64):
        xq = bench.xq[start : start + 64]
        rows.append(index.candidates(index.rotate(xq), n, NPROBE)[1])
    I = np.empty((len(bench.xq), K), np.int64)
    for q, mine in enumerate(np.vstack(rows)):
        mine = mine[mine >= 0]  # one shard: local rows are the rows
        I[q] = bench.ids[mine[np.argsort(-(bench.xb[mine] @ bench.xq[q]))[:K]]]
    lost = bench.recall(I) - ours
    return [
        Ratio(
            "re-rank by float16: recall lost against float32",
            "≤ .001",
            f"{lost:.4f}",
            lost <= 0.001,
        )
    ]


def _tombstones(bench: Bench) -> list[Ratio]:
    """A fifth of the rows gone: what masking them costs, and whether one is found."""
    rng = np.random.default_rng(0)
    gone = np.sort(rng.permutation(len(bench.xb))[: len(bench.xb) // 5])
    masked = bench.single.restrict(gone=bench.ids[gone])
    alive = np.ones(len(bench.xb), bool)
    alive[gone] = False
    found = _search(masked, bench)
    leaks = int(np.isin(found, bench.ids[gone]).sum())
    recall = recall_at_k(found, bench.exact(alive), K).value
    cost = _costs(bench, masked, bench.single)
    return [
        Ratio("20 % of rows gone: CPU / none gone", "≤ 1.15", f"{cost:.2f}", cost <= 1.15),
        Ratio("20 % of rows gone: found all the same", "0", str(leaks), leaks == 0),
        Ratio("20 % of rows gone: recall", "-", f"{recall:.4f}", True),
    ]


def _fresh(bench: Bench) -> list[Ratio]:
    """Rows newer than the index are an exact index beside it: what 1, 5 and 20 % of them cost."""
    plain, lines = bench.single, []
    for share in (0.01, 0.05, 0.2):
        rows = int(share * len(bench.xb))
        xb = clustered(rows, bench.arguments.dim, clusters=bench.arguments.clusters, seed=2)
        root = bench.folder / f"fresh-{rows}"
        flat = default_plan(rows, xb.shape[1], factory="Flat")
        build(root, xb, flat, first=int(bench.ids[-1]) + 1)
        cost = _costs(bench, bench.single.restrict(fresh=Index.open(root)), plain)
        what = f"{share:.0%} of rows new ({rows:,}): CPU / none new"
        lines.append(Ratio(what, "-", f"{cost:.2f}", True))
    return lines


def _added(bench: Bench) -> list[Ratio]:
    """Rows added to the index since it was built whole, as often as one likes: 1, 5 and 20 % of them, one shard more."""
    lines = []
    for base in (bench.single, bench.sharded):
        shards = base.manifest.spec.plan.shards
        for share in (0.01, 0.05, 0.2):
            rows = int(share * len(bench.xb))
            xb = clustered(rows, bench.arguments.dim, clusters=bench.arguments.clusters, seed=2)
            root = bench.folder / f"added-{shards}-{rows}"
            extend(base.manifest, root, [], xb, int(bench.ids[-1]) + 1)
            cost = _costs(bench, Index.open(root), base)
            what = f"{share:.0%} of rows added to {shards} shard(s): CPU / none added"
            lines.append(Ratio(what, "≤ 1.5", f"{cost:.2f}", cost <= 1.5))
    return lines


def _damages(bench: Bench) -> list[Ratio]:
    """Every file of the index damaged in turn, by a bit or a cut: how many an opening refuses."""
    root, rng, refused = Path(bench.single.manifest.spec.root), np.random.default_rng(0), 0
    named = [bench.single.manifest.quantizer, *bench.single.manifest.shards[0].files]
    names = [*(file.name for file in named), "manifest.json"]
    for n in range(bench.arguments.damages):
        path = root / names[n % len(names)]
        whole = path.read_bytes()
        at = int(rng.integers(len(whole)))
        if n % 3:
            flip(path, at)
        else:
            path.write_bytes(whole[:at])
        try:
            Index.open(root)
        except IndexDataError:
            refused += 1
        path.write_bytes(whole)
    Index.open(root)
    found, asked = f"{refused} of {bench.arguments.damages}", bench.arguments.damages
    return [Ratio("damaged files found before they are loaded", "all", found, refused == asked)]


def _search(index: Index, bench: Bench) -> np.ndarray:
    return index.search(bench.xq, OPTIONS).I


def _costs(bench: Bench, one: Index, other: Index) -> float:
    """Core seconds of `one` over those of `other`, in turns, the fastest of each."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    searches: list[Callable[[], object]] = [lambda i=i: _search(i, bench) for i in (one, other)]
    for _ in range(REPEATS + 1):
        for n, search in enumerate(searches):
            start = time.process_time()
            search()
            seconds[n].append(time.process_time() - start)
    return min(seconds[0][1:]) / min(seconds[1][1:])


if __name__ == "__main__":
    main()
