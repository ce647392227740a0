"""How often a tuned point meets its target on queries it has not seen: the lower bound against the plain mean.

    python -m tests.bench.bench_tune

One process, no Spark: an index over clustered vectors, every point of the grid measured once for a pool of queries,
then resplit many times. The pool has two kinds, near ones drawn as the rows are and far ones pulled to another centre.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.unit.search.indexes import build, clustered, exact
from udfs.index.plan import default_plan
from udfs.index.points import Point
from udfs.recall.measure import rank_by_codes
from udfs.recall.recall import recall_by_query
from udfs.recall.tuning import Measured, cheapest, grid
from udfs.search.index import Index
from udfs.specs import SearchOptions

K, SEEN = 10, 200
TARGETS = tuple(n / 100 for n in range(90, 100))


def main() -> None:
    """Build, measure, resplit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=2000, help="of each of two kinds")
    parser.add_argument("--resplits", type=int, default=200)
    arguments = parser.parse_args()
    xb = clustered(arguments.rows, arguments.dim, clusters=1000)
    near = clustered(arguments.queries, arguments.dim, clusters=1000, seed=1)
    far = _between(clustered(2 * arguments.queries, arguments.dim, clusters=1000, seed=2))
    xq, kinds = np.concatenate([near, far]), np.repeat(["near", "far"], arguments.queries)
    start = time.perf_counter()
    measured = _measured(xb, xq)
    seconds = time.perf_counter() - start
    table = Table(
        title=f"{arguments.rows:,} × {arguments.dim}, {SEEN} queries of each kind choose, the others of "
        f"{len(xq):,} judge, {arguments.resplits} resplits, {os.cpu_count()} cores, {seconds:.0f} s"
    )
    for column in ("target", "chosen by", "met, near", "met, far", "nprobe · k_factor", "ms"):
        table.add_column(column, justify="left" if column == "chosen by" else "right")
    for chosen_by in ("lower bound", "mean"):
        for target in TARGETS:
            table.add_row(*_row(measured, kinds, target, chosen_by, arguments.resplits))
        table.add_section()
    Console(width=110).print(table)


def _between(x: np.ndarray) -> np.ndarray:
    """Queries half way between two of the rows' kind: their neighbours lie in many lists."""
    middle = x[::2] + x[1::2]
    return np.ascontiguousarray(middle / np.linalg.norm(middle, axis=1, keepdims=True))


def _measured(xb: np.ndarray, xq: np.ndarray) -> list[Measured]:
    """Every useful point: recall of each query by one search per nprobe, and the median time of 100 single ones."""
    D, I = exact(xq, xb, K + 32)
    plan = default_plan(len(xb), xb.shape[1], nlist=512)
    found = []
    with tempfile.TemporaryDirectory(prefix="gme-bench-") as folder:
        build(Path(folder), xb, plan, chunk=20_000)
        index = Index.open(folder)
        points = grid(plan.nlist, refined=True)
        for nprobe in sorted({p.nprobe for p in points if p.nprobe <= 256}):
            factors = sorted(p.k_factor for p in points if p.nprobe == nprobe)
            ranked = rank_by_codes(index, xq, K * factors[-1], nprobe)
            for factor in factors:
                recalls = recall_by_query(ranked[:, : K * factor], I, K, D_exact=D)
                ms = _milliseconds(index, xq, Point(nprobe, factor))
                found.append(Measured(Point(nprobe, factor), recalls, recalls, ms))
            if recalls.mean() >= 0.9995:
                break
    return found


def _milliseconds(index: Index, xq: np.ndarray, point: Point) -> np.ndarray:
    """The same median for every query: a resplit is about recall."""
    ms = []
    for q in range(0, len(xq), max(1, len(xq) // 100)):
        start = time.perf_counter()
        index.search(xq[q : q + 1], SearchOptions(K, point.nprobe, point.k_factor))
        ms.append((time.perf_counter() - start) * 1e3)
    return np.full(len(xq), np.median(ms))


def _row(
    measured: list[Measured], kinds: np.ndarray, target: float, chosen_by: str, resplits: int
) -> tuple[str, ...]:
    rng, met, picked = np.random.default_rng(0), {"near": [], "far": []}, []
    of_kind = {kind: np.flatnonzero(kinds == kind) for kind in met}
    for _ in range(resplits):
        seen = np.zeros(len(kinds), bool)
        for members in of_kind.values():
            seen[rng.choice(members, SEEN, replace=False)] = True
        best = _choice([m.take(seen) for m in measured], kinds[seen], target, chosen_by)
        if best is None:
            continue
        picked.append(best)
        whole = next(m for m in measured if m.point == best.point)
        for kind in met:
            met[kind].append(whole.recalls[~seen & (kinds == kind)].mean() >= target)
    if not picked:
        return f"{target:g}", chosen_by, "out of reach", "", "", ""
    common = max({p.point for p in picked}, key=lambda p: [q.point for q in picked].count(p))
    shares = (f"{np.mean(met[kind]):.1%}" for kind in ("near", "far"))
    ms = np.median([p.cost for p in picked])
    return f"{target:g}", chosen_by, *shares, f"{common.nprobe} · {common.k_factor}", f"{ms:.2f}"


def _choice(
    measured: list[Measured], kinds: np.ndarray, target: float, chosen_by: str
) -> Measured | None:
    if chosen_by == "lower bound":
        return cheapest(measured, kinds, recall=target)
    names = np.unique(kinds)
    fit = [m for m in measured if min(m.recalls[kinds == n].mean() for n in names) >= target]
    return min(fit, key=lambda m: m.cost, default=None)


if __name__ == "__main__":
    main()
