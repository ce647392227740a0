"""Train every strategy with every seed, score each on the same held-out queries, and compare them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jobs.lake.lake import Lake, absolute, now
from jobs.lake.registry import Registry
from jobs.lake.runs import Run
from jobs.settings.settings import Settings
from jobs.stages.train.ablation_report import Ablation, StrategyResult, plot, results_table
from jobs.stages.train.job import run_processes, score_metrics, thin_metrics, training_spec
from jobs.stages.train.pair_files import DataFolder
from jobs.stages.train.strategies import Strategy, load_strategies, strategy_settings
from udfs.bootstrap import Floats
from udfs.errors import SettingsError
from udfs.training.comparing import summarise
from udfs.training.scoring import read_scores, scores_key
from udfs.training.spec import TrainSpec

# What a reader of the results needs to know of section train; the rest are places.
_PLACES = {"base", "output", "work", "cache", "pairs", "tasks", "validation", "image_base"}


@dataclass(frozen=True)
class Outcome:
    """One training of an ablation: its `scores.json`, and whether an earlier run had done it."""

    seed: int
    scores: dict[str, Any]
    reused: bool


@dataclass(frozen=True)
class AblationReport:
    """What an ablation came to, and the folder that holds it as files."""

    ablation: Ablation
    folder: Path

    def __str__(self) -> str:
        return f"{results_table(self.ablation)}\n{self.folder}"

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {"folder": self.folder, **vars(self.ablation)}


def ablate_training(
    lake: Lake, run: Run, *, registry: Registry, settings: Settings
) -> AblationReport:
    """Train what `ablate` says, each training an MLflow run under this one and rows of `ablations`.

    A training with the same settings and tables is done once, whichever strategy or run asks for it; one that was killed
    goes on. Writes `ablations.json|md|png` into the folder and the run's artifacts. Raises SettingsError before anything
    is trained.
    """
    strategies = load_strategies(settings)
    if not (settings.train.drawn or settings.train.validation):
        raise SettingsError("nothing to compare by: set train.validation, or train.drawn=true")
    folder = _folder(lake, settings)
    data = DataFolder(str(folder / "data"))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in strategies}
    for seed in settings.ablate.seeds:
        for name, strategy in strategies.items():
            train = strategy_settings(settings, name, strategy, seed=seed)
            changed = settings.model_copy(update={"train": train})
            with run.stage("prepare"):
                spec = training_spec(lake.spark, changed, data=data)
                spec = replace(spec, work=str(folder / "trainings" / scores_key(spec)))
            with registry.child(f"{name}/{seed}", settings=changed):
                outcome = _outcome(run, registry, spec, changed)
                run.append("ablations", _rows(run, name, strategy, spec, outcome))
            outcomes[name].append(outcome)
    ablation = _compare(settings, strategies, outcomes)
    for file in _written(ablation, folder):
        registry.log_artifact(str(file))
    return AblationReport(ablation, folder)


def _folder(lake: Lake, settings: Settings) -> Path:
    folder = absolute(settings.ablate.folder or lake.folder("ablations"))
    if "://" in folder:
        raise SettingsError(f"ablate.folder={folder}: give a folder on a local or shared disk")
    return Path(folder)


def _outcome(run: Run, registry: Registry, spec: TrainSpec, settings: Settings) -> Outcome:
    """The training's scores, trained now where they are not there; logged to the active MLflow run."""
    scores = read_scores(spec)
    reused = scores is not None
    if scores is None:
        with run.stage("train"):
            run_processes(settings.train, spec)
        scores = read_scores(spec)
        if scores is None:
            raise FileNotFoundError(f"{spec.work} has no scores of the training that just ended")
        (Path(spec.work) / "last.pt").unlink()  # weights and optimiser, to go on from
    run.counts["reused" if reused else "trained"] += 1
    registry.log_history(thin_metrics(Path(spec.work) / "metrics.jsonl"))
    registry.log_metrics(score_metrics(scores))
    return Outcome(settings.train.seed, scores, reused)


def _rows(
    run: Run, name: str, strategy: Strategy, spec: TrainSpec, outcome: Outcome
) -> Iterator[dict[str, Any]]:
    for score_name, score in outcome.scores["scores"].items():
        task, _, metric = score_name.rpartition("/")
        yield {
            "run_id": run.run_id,
            "strategy": name,
            "against": strategy.against,
            "settings": json.dumps(strategy.train),
            "seed": outcome.seed,
            "scores_key": outcome.scores["key"],
            "work": run.lake.relative(spec.work),
            "reused": outcome.reused,
            "steps": outcome.scores["step"],
            "seconds": outcome.scores["seconds"],
            "task": task,
            "metric": metric,
            **score,
            "ended_at": now(),
        }


def _compare(
    settings: Settings, strategies: dict[str, Strategy], outcomes: dict[str, list[Outcome]]
) -> Ablation:
    metric = settings.ablate.metric
    values = {name: _values(of_seeds, metric) for name, of_seeds in outcomes.items()}
    results = []
    for name, strategy in strategies.items():
        old = values[strategy.against] if strategy.against else None
        change = summarise({t: v - old[t] for t, v in values[name].items()}) if old else None
        results.append(
            StrategyResult(
                name=name,
                train=strategy.train,
                against=strategy.against,
                paper=strategy.paper,
                steps=max(outcome.scores["step"] for outcome in outcomes[name]),
                seconds=float(np.mean([outcome.scores["seconds"] for outcome in outcomes[name]])),
                scores=summarise(values[name]),
                change=change,
            )
        )
    recipe = settings.train.model_dump(mode="json", exclude=_PLACES)
    return Ablation(metric, tuple(settings.ablate.seeds), recipe, tuple(results))


def _values(outcomes: list[Outcome], metric: str) -> dict[str, Floats]:
    """task -> (seeds, queries)."""
    tasks = outcomes[0].scores["values"]
    known = sorted({name for metrics in tasks.values() for name in metrics})
    if metric not in known:
        raise SettingsError(f"ablate.metric={metric}: no such score; there are {', '.join(known)}")
    return {task: np.array([o.scores["values"][task][metric] for o in outcomes]) for task in tasks}


def _written(ablation: Ablation, folder: Path) -> list[Path]:
    results, table, picture = (folder / f"ablations.{end}" for end in ("json", "md", "png"))
    ablation.write(results)
    table.write_text(results_table(ablation) + "\n", encoding="utf-8")
    plot(ablation).savefig(picture, dpi=120)
    return [results, table, picture]
