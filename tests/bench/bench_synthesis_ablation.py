"""Do synthesised pairs help? Trainings on four tables of pairs, the same steps, judged on products that none has seen.

    python -m tests.bench.bench_synthesis_ablation

`single`: text to picture and picture to picture of drawn products. `templates`: those, and picture + change to picture
from templates. `synthesised`: `single`, and what synthesize-pairs makes of the catalogue's texts and pictures with
answers by rules behind the protocol, whose quality is known. `questions`: the same without its picture + change pairs.
Judged direction by direction on held-out combinations: kind, colour and pattern were trained on, never together.
Trainings are kept: run again, it goes on.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table

from jobs.driver.session import open_session
from jobs.lake.lake import Lake
from jobs.lake.registry import Registry
from jobs.lake.runs import open_run
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.stages.demo.drawn_catalogue import draw_pairs
from jobs.stages.register import describe_checkpoint
from jobs.stages.synthesize.job import synthesize_pairs
from jobs.stages.synthesize.pairs import INSTRUCTIONS
from jobs.stages.train.ablate import ablate_training
from jobs.stages.train.ablation_report import Ablation
from udfs.drawing import Combination, draw_jpeg, held_out
from udfs.drawing.catalogue import CatalogueSpec, catalogue_row, product
from udfs.drawing.training_rows import INSTRUCTIONS as DRAWN
from udfs.drawing.words import change_text, description, query_text, title
from udfs.gme.scratch import write_scratch_checkpoint
from udfs.synthesis.local_server import answer_by_rules
from udfs.synthesis.prompts import step_messages
from udfs.synthesis.spec import DOMAINS

CATALOGUE = "id string, title string, description string, kind string, colour string, pattern string, image binary"
PAIRS = (
    "direction string, instruction string, query_text string, query_image binary, positive_text string, "
    "positive_image binary, positive_id string"
)
METRICS = ("hit@1", "ndcg@10")
ARMS = ("single", "templates", "synthesised", "questions")  # compared with the first


def main() -> None:
    """Write the tables and the held-out pairs, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=2000, help="rows of the catalogue")
    parser.add_argument(
        "--pairs", type=int, default=4000, help="drawn pairs of single and templates, each"
    )
    parser.add_argument("--held-out", type=int, default=180, help="combinations that are judged")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folder", type=Path, default=Path("build/synthesis-ablation"))
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(asked, folder)
    spark = open_session(settings)
    lake, registry = Lake(spark, settings.lake), Registry(settings)
    console = Console(width=140)
    if not (folder / "validation").exists():  # written last
        _write_catalogue(spark, folder, asked.products)
        console.print(str(_synthesize(lake, registry, settings)), highlight=False)
        _write_pairs(spark, settings, folder)
        _write_validation(spark, folder, asked.held_out)
    for metric in METRICS:  # the second one trains nothing
        ablate = settings.ablate.model_copy(update={"metric": metric})
        told = settings.model_copy(update={"ablate": ablate})
        with open_run(lake, registry, job="ablate_training") as run:
            report = ablate_training(lake, run, registry=registry, settings=told)
        console.print(_by_direction(report.ablation))
        console.print(report.folder)


def _by_direction(ablation: Ablation) -> Table:
    """Scores of each arm, and of all but the first their change, paired by query and seed, with 95 % intervals."""
    table = Table(title=f"{ablation.metric}, seeds {', '.join(map(str, ablation.seeds))}")
    table.add_column("direction")
    for result in ablation.strategies:
        table.add_column(result.name)
    for name in ablation.strategies[0].scores:
        cells = []
        for result in ablation.strategies:
            said = f"{result.scores[name].mean:.3f}"
            if result.change:
                change = result.change[name]
                said += f" {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
            cells.append(said)
        table.add_row(name.removeprefix("validation/"), *cells)
    return table


def _settings(asked: argparse.Namespace, folder: Path) -> Settings:
    strategies = {arm: {"train": {"pairs": str(folder / arm)}} for arm in ARMS}
    file = folder / "strategies.yaml"
    file.write_text(json.dumps({"strategies": strategies}))
    return load_settings(
        files=["gme-tiny.yaml"],
        sets=[
            f"lake.root={folder / 'lake'}",
            f"source.table={folder / 'drawn'}",
            f"draw.rows={asked.pairs}",
            "model.name=gme-tiny",
            "model.checkpoint=gme-tiny",
            "model.profile=tiny",
            "synthesize.server=rules",
            f"synthesize.passages={folder / 'catalogue'}",
            "synthesize.text={description}",
            "synthesize.title=title",
            "synthesize.image=image",
            f"synthesize.output={folder / 'made'}",
            "synthesize.picture=generate",
            "synthesize.attributes=kind,colour,pattern",
            "synthesize.duplicates=null",  # questions of products with one name differ in the product alone
            "synthesize.consistent=100",  # gme-tiny knows no long texts
            f"ablate.strategies={file}",
            f"ablate.seeds={asked.seeds}",
            f"ablate.folder={folder / 'trainings'}",
            f"train.base={folder / 'base'}",
            "train.drawn=false",
            f"train.pairs={folder / 'single'}",
            f"train.validation={folder / 'validation'}",
            f"train.batch={asked.batch}",
            f"train.steps={asked.steps}",
            "train.processes=1",
            "train.validate_every=0",
        ],
        env={},
    )


def _write_catalogue(spark: SparkSession, folder: Path, count: int) -> None:
    """Whole products of the train split alone."""
    spec = CatalogueSpec(no_picture=0, no_description=0, broken=0)
    names = [column.split()[0] for column in CATALOGUE.split(", ")]
    numbers = (n for n in range(2 * count) if product(n, spec=spec).split == "train")
    rows = [
        catalogue_row(number, spec=spec) for number, _ in zip(numbers, range(count), strict=False)
    ]
    _save(spark, [[row[name] for name in names] for row in rows], CATALOGUE, folder / "catalogue")
    # One base for all arms, with a tokenizer of all their words: a quarter of gme-tiny's width, random weights.
    texts = [row[name] for row in rows for name in ("title", "description")]
    texts += [*INSTRUCTIONS.values(), *DRAWN.values(), "What is this product made of?"]
    write_scratch_checkpoint(
        folder / "base", texts=texts, seed=0, hidden=64, layers=2, vision_dim=48
    )


def _synthesize(lake: Lake, registry: Registry, settings: Settings) -> object:
    model = registry.register(describe_checkpoint(settings.model), alias="champion")
    with open_run(lake, registry, job="synthesize_pairs") as run:
        return synthesize_pairs(lake, run, model=model, settings=settings)


def _write_pairs(spark: SparkSession, settings: Settings, folder: Path) -> None:
    """The tables: drawn pairs without composed ones, with them, and with the synthesised ones instead."""
    draw_pairs(spark, settings=settings, overwrite=True)
    drawn = spark.read.format("delta").load(str(folder / "drawn"))
    made = spark.read.format("delta").load(str(folder / "made")).drop("domain", "lineage")
    single = drawn.where(F.col("direction").isin("t2i", "i2i"))
    tables = {
        "single": single,
        "templates": drawn,
        "synthesised": single.unionByName(made, allowMissingColumns=True),
        "questions": single.unionByName(
            made.where("direction <> 'it2i'"), allowMissingColumns=True
        ),
    }
    for name, frame in tables.items():
        _report(name, frame)
        frame.write.format("delta").mode("overwrite").save(str(folder / name))


def _report(name: str, frame: DataFrame) -> None:
    rows = frame.groupBy("direction").count().orderBy("direction").collect()
    print(f"{name}: " + ", ".join(f"{row['count']:,} {row.direction}" for row in rows))


def _write_validation(spark: SparkSession, folder: Path, count: int) -> None:
    rng = random.Random("synthesis ablation")
    chosen = rng.sample(sorted(held_out()), count)
    rows = [pair for combination in chosen for pair in held_out_pairs(combination, rng)]
    _save(spark, rows, PAIRS, folder / "validation")


def held_out_pairs(shown: Combination, rng: random.Random) -> list[tuple[Any, ...]]:
    """A query of each direction that finds a held-out product, by its picture, its description, or both."""
    name, text = title(*shown, rng=rng), description(*shown, rng=rng)
    asked = _rules("query", {"title": name, "text": text})
    pictured = _rules("entity", {"title": name, "text": text, "query": asked["query"]})["query"]
    one, other, third = (draw_jpeg(*shown, seed=f"judged/{view}", size=224) for view in range(3))
    before = shown._replace(colour=rng.choice([c for c in _COLOURS if c != shown.colour]))
    source = draw_jpeg(*before, seed="judged/before", size=224)
    change = change_text("colour", shown.colour, rng=rng)
    right = "/".join(shown)
    return [
        ("t2i", DRAWN["t2i"], query_text(*shown, rng=rng), None, None, one, right),
        ("i2i", DRAWN["i2i"], None, other, None, one, right),
        ("it2i", DRAWN["it2i"], change, source, None, one, right),
        ("t2t", INSTRUCTIONS["t2t"], asked["query"], None, text, None, f"{right}/text"),
        ("t2it", INSTRUCTIONS["t2it"], asked["query"], None, text, third, f"{right}/both"),
        ("it2t", INSTRUCTIONS["it2t"], pictured, other, text, None, f"{right}/text"),
        ("it2it", INSTRUCTIONS["it2it"], pictured, other, text, third, f"{right}/both"),
    ]


_COLOURS = sorted({combination.colour for combination in held_out()})


def _rules(step: Any, row: dict[str, str | None]) -> dict[str, str]:
    messages = step_messages(step, row, domains=DOMAINS, passage_chars=4000)
    found: dict[str, str] = json.loads(answer_by_rules(messages, 0)[0])
    return found


def _save(spark: SparkSession, rows: list[Any], schema: str, table: Path) -> None:
    cells = [tuple(bytearray(v) if isinstance(v, bytes) else v for v in row) for row in rows]
    frame = spark.createDataFrame(cells, schema)
    frame.repartition(4).write.format("delta").mode("overwrite").save(str(table))


if __name__ == "__main__":
    main()
