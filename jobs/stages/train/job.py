"""Train an embedder: data and base checkpoint, the processes of TorchDistributor, metrics, a registered version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession

from jobs.driver.reading import read_spec
from jobs.lake.lake import absolute
from jobs.lake.registry import Registry
from jobs.lake.runs import Run
from jobs.settings.conf import profile_named
from jobs.settings.settings import Settings
from jobs.settings.train import TrainSettings
from jobs.stages.register import describe_checkpoint, make_canaries
from jobs.stages.train.pair_files import DataFolder
from udfs.errors import SettingsError
from udfs.gme.scratch import write_scratch_checkpoint
from udfs.specs import ReadSpec
from udfs.training.launch import train_process
from udfs.training.scoring import FILE as SCORES_FILE
from udfs.training.scoring import read_scores
from udfs.training.scratch_base import training_texts
from udfs.training.spec import DrawnSpec, ModelOptions, OptimiserOptions, PairsSpec, TrainSpec

_POINTS = 500  # of each curve in MLflow; the file keeps all


def train_embedder(spark: SparkSession, run: Run, *, registry: Registry, settings: Settings) -> str:
    """Train as `settings.train` says, register the result with this run as its origin, and return a report.

    Killed and started again with the same settings it goes on from its last checkpoint; with a table of pairs that has
    changed meanwhile it does not, as that would be another training. Raises SettingsError, CheckpointError, LakeError;
    RuntimeError where a training process fails, whose error stands in the log.
    """
    train = settings.train
    _check_output(train)
    check_training(train)
    with run.stage("prepare"):
        spec = training_spec(spark, settings)
    with run.stage("train"):
        run_processes(train, spec)
    metrics = Path(spec.work) / "metrics.jsonl"
    registry.log_history(thin_metrics(metrics))
    registry.log_artifact(str(metrics))
    if scores := read_scores(spec):
        registry.log_metrics(score_metrics(scores))
        registry.log_artifact(str(Path(spec.work) / SCORES_FILE))
    trained = describe_checkpoint(settings.model.model_copy(update={"checkpoint": spec.output}))
    canaries = make_canaries(trained, settings.model)
    run.model = registry.register(trained, alias=settings.model.alias, canaries=canaries)
    last = _read(metrics)[-1]
    run.counts["steps"] = int(last["step"])
    return (
        f"{run.model.name} version {run.model.version} ({settings.model.alias}): model_id {trained.model_id}, "
        f"{int(last['step']):,} steps in {last['seconds']:,.0f} s, {spec.output}"
    )


def run_processes(train: TrainSettings, spec: TrainSpec) -> None:
    """Run the training processes to their end, or where they were stopped on to it."""
    distributor = TorchDistributor(
        num_processes=train.processes, local_mode=train.local, use_gpu=train.device == "cuda"
    )
    distributor.run(train_process, spec)


def score_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    """The means of `scores.json` under names that MLflow takes."""
    return {
        f"scores/{name}".replace("@", "_at_"): score["mean"]
        for name, score in scores["scores"].items()
    }


def training_spec(
    spark: SparkSession, settings: Settings, *, data: DataFolder | None = None
) -> TrainSpec:
    """The spec of the processes; writes pairs files and a scratch base into `data` where they are missing.

    `data`: the work folder where it is not given. No checkpoint will be written where `train.output` is empty.
    """
    train = settings.train
    output = absolute(train.output) if train.output else ""
    work = absolute(train.work) if train.work else f"{output}-training"
    data = data or DataFolder(work)
    cache = absolute(train.cache) if train.cache else f"{data.path}/drawn"
    drawn = DrawnSpec(cache=cache, views=train.views) if train.drawn else None
    reading = _reading(spark, settings)
    spec = TrainSpec(
        base="",
        output=output,
        work=work,
        profile=profile_named(settings.model.profile),
        drawn=drawn,
        pairs=_pairs(settings, data.pairs(spark, settings), reading),
        validation=_pairs(settings, data.validation(spark, settings), reading),
        model=_model_options(train),
        directions=tuple(train.directions),
        optimiser=OptimiserOptions(
            lr=train.lr, weight_decay=train.weight_decay, warmup=train.warmup, decay=train.decay
        ),
        **{name: getattr(train, name) for name in _SAME_NAMES},
    )
    return replace(spec, base=_base(settings, spec, folder=data.path))


_SAME_NAMES = (
    "drawn_share",
    "batch",
    "steps",
    "minutes",
    "temperature",
    "instructions",
    "hard_negatives",
    "share_of_data",
    "seed",
    "checkpoint_every",
    "validate_every",
    "processes",
    "threads",
    "device",
    "dtype",
)


def _check_output(train: TrainSettings) -> None:
    if not train.output:
        raise SettingsError("train.output is not set: give the folder of the trained checkpoint")
    if "://" in train.output:
        raise SettingsError(f"train.output={train.output}: give a folder on a local or shared disk")
    if (train.pooling, train.attention) != ("last", "causal"):
        raise SettingsError(
            f"train.pooling={train.pooling} with train.attention={train.attention}: every reader of a GME checkpoint "
            "takes last-token pooling and causal attention; ablate-training judges other models and writes none"
        )


def check_training(train: TrainSettings) -> None:
    """Raise SettingsError for settings that no training can be run with."""
    if not (train.drawn or train.pairs or train.tasks):
        raise SettingsError(
            "nothing to train on: set train.pairs to a table, train.tasks to retrieval tasks, or train.drawn=true"
        )
    if (train.steps is None) == (train.minutes is None):
        raise SettingsError("give the length of the training as train.steps or train.minutes")
    if train.base == "scratch" and train.lora_rank:
        raise SettingsError(
            f"train.lora_rank={train.lora_rank} with train.base=scratch: adapters of random weights learn nothing; "
            "set train.lora_rank=0 to train all weights"
        )


def _model_options(train: TrainSettings) -> ModelOptions:
    return ModelOptions(
        lora_rank=train.lora_rank,
        pooling=train.pooling,
        attention=train.attention,
        precision=train.precision,
        layer_checkpointing=train.layer_checkpointing,
        gradient_cache=train.gradient_cache,
        token_budget=train.token_budget,
        patch_budget=train.patch_budget,
    )


def _base(settings: Settings, spec: TrainSpec, *, folder: str) -> str:
    """The base checkpoint's folder; a scratch one is named after what it is made from."""
    train = settings.train
    if train.base != "scratch":
        return describe_checkpoint(
            settings.model.model_copy(update={"checkpoint": train.base})
        ).path
    sizes = (train.hidden, train.layers, train.vision_dim, train.vision_depth, train.vocab)
    texts = list(training_texts(spec.drawn, spec.pairs, seed=spec.seed))
    made_from = json.dumps([sizes, spec.seed, texts]).encode()
    scratch = Path(folder) / f"scratch-{hashlib.sha256(made_from).hexdigest()[:16]}"
    if not (scratch / "preprocessor_config.json").is_file():  # the last file that is written
        write_scratch_checkpoint(
            scratch,
            texts=texts,
            seed=spec.seed,
            hidden=train.hidden,
            layers=train.layers,
            vision_dim=train.vision_dim,
            vision_depth=train.vision_depth,
            vocab=train.vocab,
        )
    return str(scratch)


def _reading(spark: SparkSession, settings: Settings) -> ReadSpec:
    train = settings.train
    tasks = settings.evaluate.data if train.tasks else None
    folders = [train.image_base, tasks]
    return read_spec(
        spark,
        settings.source,
        train.pairs,
        train.validation,
        max_bytes=settings.embed.max_image_bytes,
        folders=folders,
    )


def _pairs(settings: Settings, file: str | None, reading: ReadSpec) -> PairsSpec | None:
    if file is None:
        return None
    train = settings.train
    return PairsSpec(
        path=file,
        weights=tuple(sorted(train.weights.items())),
        homogeneous=train.homogeneous,
        negatives=train.negatives,
        image_base=train.image_base,
        crop=train.crop,
        reading=reading,
    )


def _read(metrics: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]


def thin_metrics(metrics: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, values) for MLflow of a training's metrics file: every validation, and about `_POINTS` of the other lines."""
    lines = _read(metrics)
    every = max(1, len(lines) // _POINTS)
    for number, line in enumerate(lines):
        values = {name.replace("@", "_at_"): v for name, v in line.items() if name != "step"}
        if number % every == 0 or number == len(lines) - 1 or "loss" not in line:
            yield int(line["step"]), values
