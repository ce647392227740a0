"""synthesize-pairs over passages of the real retrieval set, with the small real language model: what survives, and
what it takes.

    python -m tests.bench.bench_synthesis --passages 200

Passages are the set's rows with their own titles, descriptions and pictures; pictures of entities are found in the same
set by gme-tiny. Prints pairs by direction, what each filter left out, tokens and seconds, and writes examples with their
pictures into a JSON file that notebooks/synthesis.ipynb shows.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table

from jobs.driver.session import open_session
from jobs.lake.lake import Lake
from jobs.lake.registry import Registry
from jobs.lake.runs import open_run
from jobs.settings.load import load_settings
from jobs.stages.register import describe_checkpoint
from jobs.stages.synthesize.job import SynthesisReport, synthesize_pairs

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "retrieval" / "catalog.parquet"
EXAMPLES = 3  # of each direction


def main() -> None:
    """Write the passages, synthesize, print, write examples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--server", choices=("smollm2", "rules"), default="smollm2")
    parser.add_argument("--data", type=Path, default=DATA, help="id, title, description, image")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-synthesis"))
    asked = parser.parse_args()
    if not asked.data.exists():
        sys.exit(f"{asked.data} is not there: give a Parquet file by --data")
    folder = asked.folder.resolve()
    settings = load_settings(
        sets=[
            f"lake.root={folder / 'lake'}",
            "model.name=gme-tiny",
            "model.checkpoint=gme-tiny",
            "model.profile=tiny",
            f"synthesize.server={asked.server}",
            f"synthesize.passages={folder / 'passages'}",
            "synthesize.text={description}",
            "synthesize.title=title",
            "synthesize.image=image",
            f"synthesize.output={folder / 'pairs'}",
            "synthesize.picture=retrieve",
            f"synthesize.pictures={folder / 'pictures'}",
            "synthesize.pictures_caption=title",
            "synthesize.max_tokens=120",
            "synthesize.concurrency=8",
            "synthesize.answer_seconds=300",
        ],
        env={},
    )
    spark = open_session(settings)
    _write_tables(spark, asked.data, folder, asked.passages)
    lake, registry = Lake(spark, settings.lake), Registry(settings)
    model = registry.register(describe_checkpoint(settings.model), alias="champion")
    start = time.perf_counter()
    with open_run(lake, registry, job="synthesize_pairs") as run:
        report = synthesize_pairs(lake, run, model=model, settings=settings)
    console = Console(width=120)
    console.print(
        _table(
            report,
            f"{asked.passages} passages, {asked.server}, {time.perf_counter() - start:.0f} s",
        )
    )
    console.print(str(report), highlight=False)
    pairs = spark.read.format("delta").load(str(folder / "pairs"))
    file = folder / "examples.json"
    file.write_text(json.dumps({"report": report.values(), "pairs": _examples(pairs.collect())}))
    console.print(f"examples: {file}")


def _write_tables(spark: SparkSession, data: Path, folder: Path, count: int) -> None:
    """One passage for each description, chosen by a hash; pictures are all rows. Written once, so that a rerun goes on."""
    rows = spark.read.parquet(str(data)).select("id", "title", "description", "image")
    if not (folder / "pictures").exists():
        rows.write.format("delta").save(str(folder / "pictures"))
    ids = rows.where("length(description) > 40").groupBy("description").agg(F.min("id").alias("id"))
    chosen = ids.orderBy(F.xxhash64("id")).limit(count).select("id")
    passages = rows.join(F.broadcast(chosen), "id", "left_semi")
    passages.write.format("delta").mode("overwrite").save(str(folder / "passages"))


def _table(report: SynthesisReport, title: str) -> Table:
    """Pairs by direction, and what each filter left out."""
    table = Table(title=title)
    for name in ("step", "what", "rows"):
        table.add_column(name)
    for row in report.pairs:
        table.add_row("pairs", f"{row['direction']} {row['domain'] or ''}", str(row["pairs"]))
    for row in report.rejects:
        what = " ".join(str(row[name]) for name in ("reason", "direction", "domain") if row[name])
        table.add_row(str(row["step"]), what, str(row["rows"]))
    return table


def _examples(rows: list[Any]) -> list[dict[str, Any]]:
    """A few pairs of each direction, pictures as base64 and the answers that they were made from."""
    made: list[dict[str, Any]] = []
    for row in rows:
        if sum(one["direction"] == row.direction for one in made) >= EXAMPLES:
            continue
        shown = {
            n: row[n] for n in ("direction", "instruction", "query_text", "positive_text", "domain")
        }
        for side in ("query", "positive"):
            uri = row[f"{side}_image_uri"]
            shown[f"{side}_image"] = (
                None if uri is None else base64.b64encode(Path(uri).read_bytes()).decode()
            )
        shown["answers"] = [{"step": a.step, "raw": a.raw} for a in row.lineage.answers or []]
        made.append({**shown, "positive_rank": row.lineage.positive_rank})
    return made


if __name__ == "__main__":
    main()
