"""What a run of embed_table costs that has little or nothing to embed, beside one that embeds all: `make bench-changes`.

A small checkpoint stands for a model that costs nothing: what is left is the job around it. The source has a change
feed. One session makes all runs, one after another: the first three, which are not shown, pay for its start.
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
from tests.bench.vectors_table import open_lake

WARM_ROWS = 1000
FEW_ROWS = 9


def main() -> None:
    """Make the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--set", action="append", default=[], help="a setting, as of gme-lake")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gme-bench-"))
    try:
        _print(_runs(folder, arguments.rows, arguments.set), arguments.rows)
    finally:
        shutil.rmtree(folder)


def _runs(folder: Path, rows: int, sets: list[str]) -> list[dict]:
    from jobs.lake.registry import Registry
    from jobs.stages.register import describe_checkpoint
    from tests.lake_settings import settings_of
    from udfs.gme.scratch import write_scratch_checkpoint

    write_scratch_checkpoint(folder / "model", texts=["a thing"])
    source = folder / "products"
    lake = open_lake(
        folder,
        f"spark.master=local[{os.cpu_count()}]",
        f"source.table={source}",
        "source.text={title}",
        "source.image=null",
        f"model.checkpoint={folder / 'model'}",
        "model.profile=tiny",
        *sets,
    )
    registry = Registry(settings_of(lake))
    model = registry.register(describe_checkpoint(settings_of(lake).model), alias="champion")
    _append(lake, source, range(WARM_ROWS))
    for _ in range(2):
        _embed(lake, registry, model)
        lake.spark.sql(f"UPDATE delta.`{source}` SET title = 'warm' WHERE number = 0")
    _embed(lake, registry, model)

    def change(count: int, mark: str) -> None:
        statement = f"SET title = concat(title, '{mark}') WHERE number < {count}"
        lake.spark.sql(f"UPDATE delta.`{source}` {statement}")

    _append(lake, source, range(WARM_ROWS, WARM_ROWS + rows))
    found = [{"changed": "all rows", **_embed(lake, registry, model)}]
    found.append({"changed": "nothing", **_embed(lake, registry, model)})
    change(rows // 100, "!")
    found.append({"changed": "1 % of them", **_embed(lake, registry, model)})
    change(FEW_ROWS, "?")
    found.append({"changed": f"{FEW_ROWS} rows", **_embed(lake, registry, model)})
    expected = [rows, 0, rows // 100, FEW_ROWS]
    assert [run["embedded"] for run in found] == expected, found
    lake.spark.stop()
    return found


def _append(lake, source: Path, numbers: range) -> None:
    frame = lake.spark.range(numbers.start, numbers.stop, 1, 8).withColumnRenamed("id", "number")
    named = frame.selectExpr(
        "concat('p', number) AS id", "number", "concat('thing ', number) AS title"
    )
    writer = named.write.format("delta").mode("append")
    writer.option("delta.enableChangeDataFeed", "true").save(str(source))


def _embed(lake, registry, model) -> dict:
    from tests.lake_settings import embed_source

    with ProcessMeter() as meter:
        start = time.perf_counter()
        run, _ = embed_source(lake, registry, model)
        wall = time.perf_counter() - start
    embedded = run.counts["embedded"]
    return {"embedded": embedded, "wall": wall, "cpu": meter.cpu, "seconds": dict(run.seconds)}


def _print(found: list[dict], rows: int) -> None:
    roles = list(found[0]["cpu"])
    table = Table(title=f"embed_table over {rows:,} rows, a model that costs nothing")
    for column in ("changed", "embedded", "s", "of all", "CPU s", "of all", *roles):
        table.add_column(column, justify="left" if column == "changed" else "right")
    whole, whole_cpu = found[0]["wall"], sum(found[0]["cpu"].values())
    for run in found:
        cpu = sum(run["cpu"].values())
        table.add_row(
            run["changed"],
            f"{run['embedded']:,}",
            f"{run['wall']:.1f}",
            f"{run['wall'] / whole:.1%}",
            f"{cpu:.1f}",
            f"{cpu / whole_cpu:.1%}",
            *(f"{run['cpu'].get(role, 0.0):.1f}" for role in roles),
        )
    console = Console(width=120)
    console.print(table)
    for run in found:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in run["seconds"].items())
        console.print(f"{run['changed']}: {stages}")


if __name__ == "__main__":
    main()
