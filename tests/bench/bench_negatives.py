"""A second stage on mined negatives against one on as many random negatives: same base, pairs, steps and seeds.

    python -m tests.bench.bench_negatives BASE

Draws pairs of the catalogue's train split, mines negatives for them with the base checkpoint, and judges every training
on the held-out products. Differences are paired by query; intervals draw seeds and queries.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jobs.driver.session import open_session
from jobs.lake.lake import Lake
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.runs import open_run
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.stages.demo.drawn_catalogue import draw_pairs
from jobs.stages.mine.job import mine_negatives
from jobs.stages.register import describe_checkpoint
from jobs.stages.train.job import run_processes, training_spec
from udfs.drawing.validation import DrawnEvalSpec, draw_tasks
from udfs.gme import Encoder, Row
from udfs.training.comparing import summarise
from udfs.training.retrieval import QueryScores, query_scores
from udfs.training.sources import Evaluation

ARMS = {"random": "random", "mined": "nearest"}
METRICS = ("hit@1", "ndcg@10")
PER_SEED = dict[str, list[QueryScores]]


def main() -> None:
    """Draw, mine, train every arm with every seed, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, help="checkpoint of the first stage")
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--negatives", type=int, default=4, help="of each pair")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--own-picture", action="store_true", help="in both arms")
    parser.add_argument("--folder", type=Path, help="where all is kept; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gme-bench-") as folder:
        _run(arguments, arguments.folder or Path(folder))


def _run(arguments: argparse.Namespace, folder: Path) -> None:
    start = time.perf_counter()
    settings = _settings(arguments, folder)
    spark = open_session(settings)
    lake = Lake(spark, settings.lake)
    registry = Registry(settings)
    model = registry.register(describe_checkpoint(settings.model), alias="champion")
    draw_pairs(spark, settings=settings, overwrite=True)
    console = Console(width=120)
    for arm in ARMS:
        mined = _mined(lake, _arm(settings, folder, arm), registry, model)
        console.print(f"{arm}: {mined}", highlight=False)
    evaluation = draw_tasks(DrawnEvalSpec(neighbours=True))
    base = [_scores(arguments.base, settings, evaluation)] * arguments.seeds
    found: PER_SEED = {"base": base, **{arm: [] for arm in ARMS}}
    for seed in range(arguments.seeds):
        for arm in ARMS:
            began = time.perf_counter()
            trained = _trained(lake, _arm(settings, folder, arm, seed=seed))
            console.print(f"{arm}, seed {seed}: {time.perf_counter() - began:.0f} s of training")
            found[arm].append(_scores(trained, settings, evaluation))
    title = (
        f"{arguments.steps} steps of {arguments.batch} pairs with {arguments.negatives} negatives from {arguments.base}, "
        f"{arguments.seeds} seed(s), {time.perf_counter() - start:.0f} s in all"
    )
    console.print(_table(found, title))


def _settings(arguments: argparse.Namespace, folder: Path) -> Settings:
    own = str(arguments.own_picture).lower()
    return load_settings(
        files=["gme-tiny.yaml"],
        sets=[
            f"lake.root={folder / 'lake'}",
            f"source.table={folder / 'pairs'}",
            f"draw.rows={arguments.pairs}",
            f"model.checkpoint={arguments.base}",
            f"mine.pairs={folder / 'pairs'}",
            f"mine.k={arguments.negatives}",
            "mine.highest=null",  # every right answer is known by its product
            f"mine.own_picture={own}",
            f"train.base={arguments.base}",
            "train.drawn=false",
            f"train.steps={arguments.steps}",
            f"train.batch={arguments.batch}",
            f"train.lr={arguments.lr}",
            f"train.negatives={arguments.negatives}",
            "train.validate_every=0",
        ],
        env={},
    )


def _arm(settings: Settings, folder: Path, arm: str, *, seed: int = 0) -> Settings:
    table = str(folder / f"pairs-{arm}")
    mine = settings.mine.model_copy(update={"output": table, "choose": ARMS[arm]})
    changed = {"pairs": table, "seed": seed, "output": str(folder / f"{arm}-{seed}")}
    train = settings.train.model_copy(update=changed)
    return settings.model_copy(update={"mine": mine, "train": train})


def _mined(lake: Lake, settings: Settings, registry: Registry, model: ResolvedModel) -> str:
    with open_run(lake, registry, job="mine_negatives") as run:
        return str(mine_negatives(lake, run, model=model, settings=settings))


def _trained(lake: Lake, settings: Settings) -> Path:
    run_processes(settings.train, training_spec(lake.spark, settings))
    return Path(settings.train.output)


def _scores(checkpoint: Path, settings: Settings, evaluation: Evaluation) -> QueryScores:
    """Scores of every held-out query, near misses of trained products among the candidates."""
    spec = settings.model.model_copy(update={"checkpoint": str(checkpoint)})
    encoder = Encoder.load(checkpoint, profile=describe_checkpoint(spec).profile)

    def encode(rows: list[Row]) -> np.ndarray:
        encoded = encoder.encode(rows)
        assert not any(encoded.errors)
        return encoded.vectors

    return query_scores(encode, *evaluation)


def _table(found: PER_SEED, title: str) -> Table:
    table = Table(title=title)
    for column in ("", "queries", *found, "mined - random (95 %)", "better", "worse"):
        table.add_column(column, justify="right" if column else "left")
    for metric in METRICS:
        values = {arm: _by_task(scores, metric) for arm, scores in found.items()}
        means = {arm: summarise(of) for arm, of in values.items()}
        changes = {t: values["mined"][t] - values["random"][t] for t in values["mined"]}
        for name, change in summarise(changes).items():
            of = changes.get(name)
            table.add_row(
                f"{name} {metric}",
                f"{change.queries:,}",
                *(f"{means[arm][name].mean:.3f}" for arm in found),
                f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})",
                "" if of is None else f"{(of > 0).mean():.1%}",
                "" if of is None else f"{(of < 0).mean():.1%}",
            )
        table.add_section()
    return table


def _by_task(scores: list[QueryScores], metric: str) -> Mapping[str, np.ndarray]:
    """(seeds, queries) by task."""
    return {f"drawn/{task}": np.stack([of[task][metric] for of in scores]) for task in scores[0]}


if __name__ == "__main__":
    main()
