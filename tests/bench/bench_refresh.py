"""Peak memory of the driver through whole refreshes of lakes of several sizes: `make bench-refresh`.

The vectors are drawn and appended as if the model had made them; the source has the texts that they are of. A first
refresh then compares every row, builds, verifies, measures and releases an index; a second one embeds a hundred changed
rows and adds them to the index. Each size has a process of its own. `local-cluster` gives the executor a JVM beside the
driver's, so what stands under driver and driver's JVM grows with what the driver holds alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.processes import ProcessMeter
from tests.bench.vectors_table import open_lake, write_parquet
from tests.unit.search.indexes import clustered

DIM = 64
CHANGED = 100
ROLES = ("driver", "jvm", "executors", "workers")


def main() -> None:
    """Measure every size, then print the table; with --measure, one size in this process, as JSON."""
    arguments = _arguments()
    if arguments.measure is not None:
        print(json.dumps(_measured(arguments.measure, arguments)))
        return
    folder = Path(tempfile.mkdtemp(prefix="gme-bench-"))
    try:
        found = [_in_process(folder / str(rows), rows, arguments) for rows in arguments.rows]
    finally:
        shutil.rmtree(folder)
    _print(found, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--master", default="local-cluster[1,2,2048]")
    parser.add_argument("--driver-memory", default="1g")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_process(folder: Path, rows: int, arguments: argparse.Namespace) -> dict:
    """Vectors are drawn here: what the measured process held of them would count as the driver's."""
    write_parquet(folder / "vectors", clustered(rows, DIM, clusters=max(100, rows // 100)))
    command = [sys.executable, "-m", "tests.bench.bench_refresh", "--measure", str(folder)]
    command += ["--master", arguments.master, "--driver-memory", arguments.driver_memory]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    shutil.rmtree(folder)
    return {"rows": rows} | json.loads(done.stdout.splitlines()[-1])


def _measured(folder: Path, arguments: argparse.Namespace) -> dict:
    from jobs.lake.registry import Registry
    from jobs.lake.runs import open_run
    from jobs.stages.refresh.job import refresh_lake
    from jobs.stages.register import describe_checkpoint
    from tests.lake_settings import settings_of
    from udfs.gme.scratch import write_scratch_checkpoint

    write_scratch_checkpoint(folder / "model", texts=["a thing"], hidden=DIM)
    source = folder / "products"
    lake = open_lake(
        folder,
        f"spark.master={arguments.master}",
        f"spark.driver_memory={arguments.driver_memory}",
        f"source.table={source}",
        "source.text={title}",
        f"model.checkpoint={folder / 'model'}",
        "model.profile=tiny",
        "gate.recall=0",  # measured; what synthetic vectors come to is not asked here
    )
    settings = settings_of(lake)
    registry = Registry(settings)
    model = registry.register(describe_checkpoint(settings.model), alias="champion")
    _append(lake, folder / "vectors", source, model_id=model.spec.model_id)
    peaks: dict[str, dict[str, int]] = {}
    seconds: dict[str, float] = {}
    outcomes = []
    for name in ("first", "second"):
        start = time.perf_counter()
        with ProcessMeter() as meter, open_run(lake, registry, job="refresh_lake") as run:
            report = refresh_lake(lake, run, registry=registry, settings=settings)
        seconds[name] = time.perf_counter() - start
        peaks[name] = dict(meter.rss)
        outcomes.append([report.outcome, report.counts.get("embedded", 0)])
        if name == "first":
            changed = f"SET title = concat(title, '!') WHERE number < {CHANGED}"
            lake.spark.sql(f"UPDATE delta.`{source}` {changed}")
    assert outcomes == [["released", 0], ["released", CHANGED]], outcomes
    lake.spark.stop()
    return {"peaks": peaks, "seconds": seconds}


def _append(lake, vectors: Path, source: Path, *, model_id: str) -> None:
    """The vectors as those of the rows of a new source table; hashes are what the model's own would be."""
    frame = lake.spark.read.parquet(str(vectors))
    named = frame.selectExpr(
        "id",
        "INT(substring_index(id, '-', -1)) AS number",
        "concat('thing ', id) AS title",
        "embedding",
    )
    writer = named.selectExpr("id", "number", "title", "CAST(NULL AS BINARY) AS image").write
    writer.format("delta").option("delta.enableChangeDataFeed", "true").save(str(source))
    named.selectExpr(
        "id", "sha2(concat(sha2(title, 256), '|-'), 256) AS content_hash", "embedding"
    ).createOrReplaceTempView("bench_vectors")
    lake.spark.sql(
        f"INSERT INTO {lake.name('vectors')} "
        "(model_id, id, content_hash, status, error, embedding, run_id, embedded_at) "
        f"SELECT '{model_id}', id, content_hash, 'ok', NULL, embedding, 'bench', current_timestamp() FROM bench_vectors"
    )


def _print(found: list[dict], arguments: argparse.Namespace) -> None:
    console = Console(width=120)
    console.print(
        f"refresh-lake, {DIM} dimensions, {arguments.master}, driver's heap {arguments.driver_memory}; peak MB"
    )
    table = Table("rows", "refresh", "s", *ROLES)
    for one in found:
        for name in ("first", "second"):
            peaks = one["peaks"][name]
            shown = [f"{peaks.get(role, 0) / 1e6:,.0f}" for role in ROLES]
            table.add_row(f"{one['rows']:,}", name, f"{one['seconds'][name]:.0f}", *shown)
    console.print(table)


if __name__ == "__main__":
    main()
