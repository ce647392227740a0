"""Embedding through Spark against a bare loop of Encoder.encode over the same rows: `make bench`.

Prints one table: rows per second, CPU seconds by process, peak memory, share of each stage. The checkpoint is made
heavy enough (about 50 ms a row on one core) that the model dominates, as it does with the published weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.processes import ProcessMeter


def main() -> None:
    """Run both in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument(
        "--warm-rows", type=int, default=100, help="embedded before the clock starts"
    )
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gme-bench-"))
    try:
        checkpoint = _checkpoint(folder)
        spark_side = _through_spark(folder, checkpoint, arguments.rows, arguments.warm_rows)
        bare_side = _bare_loop(folder, checkpoint, arguments.warm_rows)
        _print(spark_side, bare_side)
    finally:
        shutil.rmtree(folder)


def _checkpoint(folder: Path) -> Path:
    from udfs.gme.scratch import write_scratch_checkpoint

    path = folder / "checkpoint"
    write_scratch_checkpoint(
        path, texts=["a red mug"], hidden=256, layers=4, vision_dim=128, vision_depth=3
    )
    return path


def _through_spark(folder: Path, checkpoint: Path, rows: int, warm: int) -> dict:
    from jobs.driver.cli import JobContext
    from jobs.lake.runs import open_run
    from jobs.settings.load import load_settings
    from jobs.stages.embed.job import embed_table
    from jobs.stages.register import describe_checkpoint

    table = folder / "catalogue"
    settings = load_settings(
        sets=[
            f"lake.root={folder / 'lake'}",
            f"source.table={table}",
            f"model.checkpoint={checkpoint}",
            f"spark.master=local[{os.cpu_count()}]",
            "embed.files_per_batch=64",
        ]
    )
    context = JobContext(settings)
    model = context.registry.register(describe_checkpoint(settings.model), alias="champion")
    told = {"source": settings.source, "embed": settings.embed}
    told["serving"] = settings.serving.spec()
    _draw(context, table, range(warm), files=2)
    with open_run(context.lake, context.registry, job="warm") as run:
        embed_table(context.lake, run, model=model, **told)
    _draw(context, table, range(warm, warm + rows), files=8)
    with ProcessMeter() as meter:
        start = time.perf_counter()
        with open_run(context.lake, context.registry, job="bench") as run:
            report = embed_table(context.lake, run, model=model, **told)
        wall = time.perf_counter() - start
    assert report.counts["embedded"] >= rows * 0.9, report
    embedded = report.counts["embedded"]
    context.lake.spark.stop()
    return {"rows": embedded, "wall": wall, "meter": meter, "seconds": dict(run.seconds)}


def _draw(context, table: Path, numbers: range, *, files: int) -> None:
    from jobs.driver.on_executors import on_executors
    from udfs.drawing import CatalogueSpec, draw_batches

    spec = CatalogueSpec(no_picture=0.0, broken=0.0)
    frame = context.lake.spark.range(numbers.start, numbers.stop, 1, files)
    drawn = on_executors(frame, draw_batches, spec=spec).frame
    drawn.write.format("delta").mode("append").save(str(table))


def _bare_loop(folder: Path, checkpoint: Path, warm: int) -> dict:
    import pyarrow.dataset as ds
    import torch

    from udfs.gme import Encoder, Row

    table = ds.dataset(sorted((folder / "catalogue").glob("*.parquet"))).to_table()
    pairs = list(
        zip(
            table["title"].to_pylist(),
            table["description"].to_pylist(),
            table["image"].to_pylist(),
            strict=True,
        )
    )
    rows = [
        Row(text=" ".join(t for t in (title, words) if t) or None, image=image)
        for title, words, image in pairs
    ]
    torch.set_num_threads(os.cpu_count() or 1)
    encoder = Encoder.load(checkpoint, dtype="float32", device="cpu")
    encoder.encode(rows[:warm])
    timed = rows[warm:]
    with ProcessMeter() as meter:
        start = time.perf_counter()
        for at in range(0, len(timed), 64):
            encoder.encode(timed[at : at + 64])
        wall = time.perf_counter() - start
    return {"rows": len(timed), "wall": wall, "meter": meter}


def _print(spark: dict, bare: dict) -> None:
    rate = {"spark": spark["rows"] / spark["wall"], "bare": bare["rows"] / bare["wall"]}
    cpu = {"spark": sum(spark["meter"].cpu.values()), "bare": sum(bare["meter"].cpu.values())}
    per_row = {"spark": cpu["spark"] / spark["rows"], "bare": cpu["bare"] / bare["rows"]}
    table = Table(title=f"Embedding on {os.cpu_count()} cores, model-bound rows")
    for column in ("", "rows", "rows/s", "CPU s", "CPU ms/row"):
        table.add_column(column, justify="right" if column else "left")
    for name, side in (("embed_table", spark), ("bare loop", bare)):
        key = "spark" if name == "embed_table" else "bare"
        table.add_row(
            name,
            f"{side['rows']:,}",
            f"{rate[key]:.1f}",
            f"{cpu[key]:.1f}",
            f"{per_row[key] * 1e3:.1f}",
        )
    table.add_row(
        "ratio",
        "",
        f"{rate['spark'] / rate['bare']:.2f}",
        "",
        f"{per_row['spark'] / per_row['bare']:.2f}",
    )
    console = Console(width=100)
    console.print(table)
    parts = Table(title="embed_table by process and stage")
    for column in ("", "CPU s", "peak MB"):
        parts.add_column(column, justify="right" if column else "left")
    for role, seconds in spark["meter"].cpu.items():
        parts.add_row(role, f"{seconds:.1f}", f"{spark['meter'].rss[role] / 1e6:,.0f}")
    console.print(parts)
    stages = ", ".join(f"{k} {v:.1f}" for k, v in spark["seconds"].items())
    console.print(f"seconds by stage: {stages}; of {spark['wall']:.1f} s wall")


if __name__ == "__main__":
    main()
