"""Train an embedder: data and base checkpoint, the processes of TorchDistributor, metrics, a registered version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.driver.lake import absolute, read_table
from jobs.driver.settings import Settings, profile_named
from jobs.driver.train_section import TrainSettings
from jobs.stages.evaluating.pairs import task_pairs
from jobs.stages.evaluating.tasks import load_tasks
from jobs.stages.models import describe_checkpoint
from udfs.errors import SettingsError
from udfs.training.spec import DrawnSpec, ModelOptions, OptimiserOptions, PairsSpec, TrainSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.driver.registry import Registry
    from jobs.driver.runs import Run

_POINTS = 500  # of each curve in MLflow; the file keeps all


def train_embedder(spark: SparkSession, run: Run, *, registry: Registry, settings: Settings) -> str:
    """Train as `settings.train` says, register the result with this run as its origin, and return a report.

    Killed and started again with the same settings it goes on from its last checkpoint. Raises SettingsError,
    CheckpointError, LakeError; RuntimeError where a training process fails, whose error stands in the log.
    """
    from pyspark.ml.torch.distributor import TorchDistributor

    from udfs.training.launch import train_process

    train = settings.train
    _check(train)
    with run.stage("prepare"):
        spec = training_spec(spark, settings)
    with run.stage("train"):
        distributor = TorchDistributor(
            num_processes=train.processes, local_mode=train.local, use_gpu=train.device == "cuda"
        )
        distributor.run(train_process, spec)
    metrics = Path(spec.work) / "metrics.jsonl"
    registry.log_history(_thinned(metrics))
    registry.log_artifact(str(metrics))
    trained = describe_checkpoint(settings.model.model_copy(update={"checkpoint": spec.output}))
    run.model = registry.register(trained, alias=settings.model.alias)
    last = _read(metrics)[-1]
    run.counts["steps"] = int(last["step"])
    return (
        f"{run.model.name} version {run.model.version} ({settings.model.alias}): model_id {trained.model_id}, "
        f"{int(last['step']):,} steps in {last['seconds']:,.0f} s, {spec.output}"
    )


def training_spec(spark: SparkSession, settings: Settings) -> TrainSpec:
    """The spec of the processes; writes pairs files and a scratch base into the work folder where they are missing."""
    train = settings.train
    output = absolute(train.output)
    work = absolute(train.work) if train.work else f"{output}-training"
    cache = absolute(train.cache) if train.cache else f"{work}/drawn"
    drawn = DrawnSpec(cache=cache, views=train.views) if train.drawn else None
    pairs = _pairs(train, _trained_pairs(spark, settings), f"{work}/pairs.arrow")
    validation = _table(spark, train.validation) if train.validation else None
    spec = TrainSpec(
        base="",
        output=output,
        work=work,
        profile=profile_named(settings.model.profile),
        drawn=drawn,
        pairs=pairs,
        validation=_pairs(train, validation, f"{work}/validation.arrow"),
        model=_model_options(train),
        optimiser=OptimiserOptions(
            lr=train.lr, weight_decay=train.weight_decay, warmup=train.warmup, decay=train.decay
        ),
        **{name: getattr(train, name) for name in _SAME_NAMES},
    )
    return replace(spec, base=_base(settings, spec))


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


def _check(train: TrainSettings) -> None:
    if not train.output:
        raise SettingsError("train.output is not set: give the folder of the trained checkpoint")
    if "://" in train.output:
        raise SettingsError(f"train.output={train.output}: give a folder on a local or shared disk")
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
        precision=train.precision,
        layer_checkpointing=train.layer_checkpointing,
        gradient_cache=train.gradient_cache,
        token_budget=train.token_budget,
        patch_budget=train.patch_budget,
    )


def _base(settings: Settings, spec: TrainSpec) -> str:
    """The base checkpoint's folder; a scratch one is named after what it is made from."""
    from udfs.gme.scratch import write_scratch_checkpoint
    from udfs.training.scratch_base import training_texts

    train = settings.train
    if train.base != "scratch":
        return describe_checkpoint(
            settings.model.model_copy(update={"checkpoint": train.base})
        ).path
    sizes = (train.hidden, train.layers, train.vision_dim, train.vision_depth, train.vocab)
    texts = list(training_texts(spec.drawn, spec.pairs, seed=spec.seed))
    made_from = json.dumps([sizes, spec.seed, texts]).encode()
    folder = Path(spec.work) / f"scratch-{hashlib.sha256(made_from).hexdigest()[:16]}"
    if not (folder / "preprocessor_config.json").is_file():  # the last file that is written
        write_scratch_checkpoint(
            folder,
            texts=texts,
            seed=spec.seed,
            hidden=train.hidden,
            layers=train.layers,
            vision_dim=train.vision_dim,
            vision_depth=train.vision_depth,
            vocab=train.vocab,
        )
    return str(folder)


def _trained_pairs(spark: SparkSession, settings: Settings) -> DataFrame | None:
    """The pairs table, the judgements of the tasks' train split, or both."""
    train = settings.train
    frames = [_table(spark, train.pairs)] if train.pairs else []
    if train.tasks:
        asked = settings.evaluate.model_copy(update={"tasks": train.tasks, "split": "train"})
        frames.append(task_pairs(spark, load_tasks(asked)))
    if not frames:
        return None
    return reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), frames)


def _table(spark: SparkSession, table: str) -> DataFrame:
    return spark.read.parquet(table) if table.endswith(".parquet") else read_table(spark, table)


def _pairs(train: TrainSettings, frame: DataFrame | None, file: str) -> PairsSpec | None:
    """The pairs as an Arrow file; Spark reads them, so that names, versions and URIs work as everywhere."""
    import pyarrow.dataset as ds

    from udfs.training.data import write_pairs

    if frame is None:
        return None
    parts = f"{file}.parts"
    frame.write.mode("overwrite").parquet(Path(parts).as_uri())
    files = sorted(str(part) for part in Path(parts).glob("*.parquet"))
    write_pairs(file, ds.dataset(files, format="parquet").to_batches())
    return PairsSpec(
        path=file,
        weights=tuple(sorted(train.weights.items())),
        homogeneous=train.homogeneous,
        negatives=train.negatives,
        image_base=train.image_base,
        crop=train.crop,
    )


def _read(metrics: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]


def _thinned(metrics: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Every validation, and about `_POINTS` of the other lines."""
    lines = _read(metrics)
    every = max(1, len(lines) // _POINTS)
    for number, line in enumerate(lines):
        values = {name.replace("@", "_at_"): v for name, v in line.items() if name != "step"}
        if number % every == 0 or number == len(lines) - 1 or "loss" not in line:
            yield int(line["step"]), values
