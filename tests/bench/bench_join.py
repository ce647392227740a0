"""join-similar against Spark's own NEAREST join: wall and core seconds, and recall, on clustered vectors.

    python -m tests.bench.bench_join --left 10000 --right 100000

Both get the same Parquet files and give k rows for each of left; what is measured is the whole of either, from the
files to a table. Spark compares pair by pair, so it gets fewer rows of left (--nearest-left; 0: none), and its seconds are
shown for as many as ours, in proportion. Recall is judged on 1,000 rows of left by numpy.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from jobs.lake.lake import Lake
from jobs.lake.runs import Run, record_end
from jobs.settings.load import load_settings
from jobs.stages.join.job import join_similar
from tests.bench.processes import ProcessMeter
from tests.bench.vectors_table import open_lake, write_parquet
from tests.unit.search.indexes import clustered
from udfs.recall.recall import recall_at_k
from udfs.search.exact import exact_topk

JUDGED = 1_000
BLOCK = 10_000


@dataclass(frozen=True)
class Line:
    """One join: how many rows of left it was given, what it took, how much of the truth is in it."""

    name: str
    left: int
    wall: float
    cores: float
    peak_bytes: int
    recall: float
    stages: str = ""


class Bench:
    """Two tables of vectors in files, an open lake, and the exact answer for some rows."""

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        self.folder, self.asked = folder, asked
        hard = {"clusters": asked.clusters, "spread": asked.spread}
        xq = clustered(asked.left, asked.dim, seed=1, **hard)
        xb = clustered(asked.right, asked.dim, **hard)
        write_parquet(folder / "left.parquet", xq)
        write_parquet(folder / "right.parquet", xb)
        blocks = (
            (np.arange(at, min(at + BLOCK, len(xb)), dtype=np.int64), xb[at : at + BLOCK])
            for at in range(0, len(xb), BLOCK)
        )
        _, self.truth = exact_topk(xq[:JUDGED], blocks, asked.k)
        self.lake: Lake = open_lake(folder, f"spark.master=local[{asked.cores}]")
        write_parquet(folder / "warm.parquet", xq[:JUDGED])
        self.ours(
            "Flat", left="warm.parquet", right="warm.parquet"
        )()  # a session's first jobs cost seconds

    def measure(self, name: str, left: int, join: Callable[[], str]) -> Line:
        """A join that writes (left_id, right_id) rows to `folder`/out, and says what it did."""
        with ProcessMeter() as meter:
            start = time.perf_counter()
            stages = join()
            wall = time.perf_counter() - start
        judged = min(left, JUDGED)
        rows = self.lake.spark.read.format("delta").load(str(self.folder / "out"))
        found = np.full((judged, self.asked.k), -1, np.int64)
        places = [0] * judged
        for row in rows.select("left_id", "right_id").toLocalIterator():
            query = int(row.left_id.split("-")[1])
            if query < judged:
                found[query, places[query]] = int(row.right_id.split("-")[1])
                places[query] += 1
        recall = recall_at_k(found, self.truth[:judged], self.asked.k).value
        cores, peak = sum(meter.cpu.values()), sum(meter.rss.values())
        line = Line(name, left, wall, cores, peak, recall, stages)
        print(line, flush=True)  # what follows may take long
        return line

    def ours(
        self, factory: str, *, left: str = "left.parquet", right: str = "right.parquet"
    ) -> Callable[[], str]:
        """join-similar with a temporary index of this factory."""
        tables = {"left": left, "right": right, "output": "out"}
        sets = [f"join.{name}={self.folder / file}" for name, file in tables.items()]
        settings = load_settings(
            sets=[*sets, f"join.k={self.asked.k}", f"join.factory={factory}"], env={}
        )

        def join() -> str:
            with record_end(Run(self.lake, "join_similar", "{}")) as run:
                join_similar(self.lake, run, settings=settings.join)
            wanted = ("check vectors", "train", "build shards", "check", "search")
            return ", ".join(f"{name} {run.seconds[name]:.1f}" for name in wanted)

        return join

    def nearest(self, left: int) -> Callable[[], str]:
        """Spark's NEAREST join of the first rows of left."""
        spark = self.lake.spark
        for side in ("left", "right"):
            frame = spark.read.parquet(str(self.folder / f"{side}.parquet"))
            if side == "left":
                number = "CAST(split_part(id, '-', 2) AS BIGINT)"
                # One file of rows would be one task; ours are spread by the job, too.
                frame = frame.where(f"{number} < {left}").repartition(self.asked.cores)
            frame.createOrReplaceTempView(f"bench_{side}")

        def join() -> str:
            near = spark.sql(
                "SELECT l.id AS left_id, r.id AS right_id FROM bench_left l JOIN bench_right r "
                f"EXACT NEAREST {self.asked.k} BY SIMILARITY vector_inner_product(r.embedding, l.embedding)"
            )
            writer = near.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
            writer.save(str(self.folder / "out"))
            return ""

        return join


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--left", type=int, default=10_000)
    parser.add_argument("--right", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=1_000)
    parser.add_argument("--spread", type=float, default=0.8)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--factories", default="Flat", help="of the temporary index, by semicolons")
    parser.add_argument(
        "--nearest-left", type=int, default=64, help="rows of left for Spark's own join"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), asked)
        lines = [
            bench.measure(f"join-similar, {factory}", asked.left, bench.ours(factory))
            for factory in asked.factories.split(";")
        ]
        if asked.nearest_left:
            left = min(asked.nearest_left, asked.left)
            lines.append(bench.measure("Spark, EXACT NEAREST", left, bench.nearest(left)))
        _print(asked, lines)


def _print(asked: argparse.Namespace, lines: list[Line]) -> None:
    console = Console(width=170)
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {platform.machine()}, faiss {faiss.__version__}; "
        f"{asked.left:,} x {asked.right:,} vectors of {asked.dim}, k {asked.k}, {asked.clusters} clusters, noise "
        f"{asked.spread} x centre"
    )
    table = Table(
        "join", "rows of left", "seconds", "core-s", "peak MB", f"recall@{asked.k}",
        "seconds for all of left", "stages",
    )  # fmt: skip
    for line in lines:
        share = asked.left / line.left
        table.add_row(
            line.name, f"{line.left:,}", f"{line.wall:.1f}", f"{line.cores:.1f}",
            f"{line.peak_bytes / 1e6:,.0f}", f"{line.recall:.4f}", f"{line.wall * share:,.0f}", line.stages,
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
