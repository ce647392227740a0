"""CPU and memory of build_index through Spark against one raw faiss process: `python -m tests.bench.bench_build`.

Three tables: core seconds of both over the same vectors with the same training; what was predicted before the build
against what it took; peak memory of driver and tasks at two sizes. Vectors are drawn by
`tests.unit.search.indexes.clustered`; a build does the same work whatever they are.

Core seconds are user + system of every process (the raw one: of one thread), measured in one run, one after the other.
Each size is built twice in one session, after a small build: a cluster's JVMs live longer than one build, and what they
compile during the first costs nothing later. The second is what is compared. "Without reading" is the
build less what Spark takes to read the same columns and throw them away. In local mode the driver's JVM is the executor;
`--master 'local-cluster[2,1,2048]'` gives each of two executors a JVM of 2 GiB beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.bench.processes import ProcessMeter
from tests.bench.vectors_table import MODEL_ID, append_parquet, open_lake, write_parquet
from tests.unit.search.indexes import clustered
from udfs.index.plan import opq_pq_factory
from udfs.specs import ModelSpec

WARM_ROWS = 5000
ROLES = ("driver", "jvm", "executors", "workers")


@dataclass(frozen=True)
class Built:
    """Two builds through Spark, the first and the next. `read` is the same columns read and thrown away."""

    rows: int
    report: object
    first: ProcessMeter
    build: ProcessMeter
    read: ProcessMeter
    seconds: dict[str, float]
    raw: dict[str, float]
    raw_reading: dict[str, float]


def main() -> None:
    """Build at a quarter of the size and at the size, then print."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="gme-bench-"))
    sizes = [arguments.rows // 4, arguments.rows]
    try:
        drawn = {rows: _drawn(folder / str(rows), rows, arguments) for rows in (WARM_ROWS, *sizes)}
        _warm(folder / "warm", drawn[WARM_ROWS], arguments)
        _print([_built(rows, drawn[rows], arguments) for rows in sizes], arguments)
    finally:
        shutil.rmtree(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--nlist", type=int, help="default: by rule")
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--set", action="append", default=[], help="a setting, as of gme-lake")
    return parser.parse_args()


def _drawn(folder: Path, rows: int, arguments: argparse.Namespace) -> Path:
    """Vectors in files, as Parquet and as xb.npy: what this process held of them would count as the driver's."""
    xb = clustered(rows, arguments.dim, clusters=arguments.clusters)
    files = write_parquet(folder / "parquet", xb)
    np.save(folder / "xb.npy", xb)
    return files


def _sets(arguments: argparse.Namespace) -> list[str]:
    sets = [
        f"index.factory={opq_pq_factory(arguments.dim)}",
        f"index.shards={arguments.shards}",
        f"spark.master={arguments.master}",
        *arguments.set,
    ]
    return sets + ([f"index.nlist={arguments.nlist}"] if arguments.nlist else [])


def _warm(folder: Path, files: Path, arguments: argparse.Namespace) -> None:
    lake = open_lake(folder, *_sets(argparse.Namespace(**vars(arguments) | {"nlist": 16})))
    append_parquet(lake, files)
    _build_index(lake, arguments.dim)
    _read_columns(lake)


def _built(rows: int, files: Path, arguments: argparse.Namespace) -> Built:
    folder = files.parent
    lake = open_lake(folder, *_sets(arguments), f"lake.schema=gme_{rows}")
    append_parquet(lake, files)
    again = open_lake(folder, *_sets(arguments), f"lake.schema=gme_{rows}", "index.seed=1")
    with ProcessMeter(interval=0.25) as first:
        _build_index(lake, arguments.dim)
    with ProcessMeter(interval=0.25) as build:
        report, run = _build_index(again, arguments.dim)
    with ProcessMeter(interval=0.25) as read:
        _read_columns(lake)
    plan = json.dumps(asdict(report.spec.plan))
    raw = _raw(folder / "xb.npy", plan, folder / "raw.faiss")
    raw_reading = _raw(files, plan, folder / "raw.faiss")
    return Built(rows, report, first, build, read, dict(run.seconds), raw, raw_reading)


def _build_index(lake, dim: int):
    from jobs.lake.registry import Registry, ResolvedModel
    from jobs.lake.runs import open_run
    from jobs.stages.index.job import build_index
    from jobs.stages.index.plan import plan_index
    from tests.lake_settings import settings_of

    settings = settings_of(lake)
    model = ResolvedModel("gme", "1", ModelSpec("/nowhere", MODEL_ID, dim, "0" * 64))
    with open_run(lake, Registry(settings), job="build_index") as run:
        with run.stage("plan"):
            planned = plan_index(lake, settings.index, model=model)
        return build_index(lake, run, model=model, planned=planned), run


def _read_columns(lake) -> None:
    rows = lake.read("vectors").where(f"model_id = '{MODEL_ID}' AND status = 'ok'")
    rows.select("vector_id", "id", "embedding").write.format("noop").mode("overwrite").save()


def _raw(source: Path, plan: str, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.raw_build", str(source), plan, str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout)


def _print(builds: list[Built], arguments: argparse.Namespace) -> None:
    console = Console(width=120)
    whole = builds[-1]
    console.print(
        f"{whole.rows:,} × {arguments.dim} vectors, {whole.report.spec.plan.factory}, {arguments.shards} shard(s), "
        f"{arguments.master}, {os.cpu_count()} cores; core seconds of all processes"
    )
    console.print(_cpu_table(builds))
    console.print(_prediction_table(builds))
    console.print(_memory_table(builds))
    stages = ", ".join(f"{name} {value:.1f}" for name, value in whole.seconds.items())
    console.print(f"seconds of the run at {whole.rows:,}: {stages}")


def _cpu_table(builds: list[Built]) -> Table:
    table = Table("core seconds", *(f"{b.rows:,} rows" for b in builds))

    def row(name: str, value) -> None:
        table.add_row(name, *(value(b) for b in builds))

    for step in ("train", "add", "write"):
        row(f"raw faiss, {step}", lambda b, step=step: f"{b.raw[step]:.1f}")
    row("raw faiss, whole", lambda b: f"{b.raw['total']:.1f}")
    row("raw faiss, whole, vectors read from Parquet", lambda b: f"{b.raw_reading['total']:.1f}")
    table.add_section()
    for role in ROLES:
        row(f"build_index, {role}", lambda b, role=role: f"{b.build.cpu.get(role, 0):.1f}")
    row("build_index, whole", lambda b: f"{_total(b.build):.1f}")
    row("build_index, whole, first time in the session", lambda b: f"{_total(b.first):.1f}")
    row("Spark reads the same columns", lambda b: f"{_total(b.read):.1f}")
    table.add_section()
    row("ratio with reading (goal 2)", lambda b: f"{_total(b.build) / b.raw['total']:.2f}")
    row(
        "ratio without reading (goal 1.25)",
        lambda b: f"{(_total(b.build) - _total(b.read)) / b.raw['total']:.2f}",
    )
    small, large = builds
    more = _total(large.build) - _total(small.build)
    raw = large.raw["total"] - small.raw["total"]
    table.add_row("ratio of what the further rows cost, with reading", "", f"{more / raw:.2f}")
    return table


def _total(meter: ProcessMeter) -> float:
    return sum(meter.cpu.get(role, 0.0) for role in (*ROLES, "other"))


def _prediction_table(builds: list[Built]) -> Table:
    table = Table("rows", "figure", "predicted", "measured", "predicted / measured")
    for built in builds:
        for one in built.report.predictions:
            shown = [
                f"{v / 1e6:,.0f} MB" if one.in_bytes else f"{v:.1f} s"
                for v in (one.predicted, one.measured)
            ]
            table.add_row(
                f"{built.rows:,}", one.name, *shown, f"{one.predicted / one.measured:.2f}"
            )
    return table


def _memory_table(builds: list[Built]) -> Table:
    table = Table("peak MB", *(f"{b.rows:,} rows" for b in builds))
    for role in ROLES:
        table.add_row(role, *(f"{b.build.rss.get(role, 0) / 1e6:,.0f}" for b in builds))
    table.add_row("raw faiss", *(f"{b.raw['peak_bytes'] / 1e6:,.0f}" for b in builds))
    return table


if __name__ == "__main__":
    main()
