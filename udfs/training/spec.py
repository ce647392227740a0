"""Frozen dataclasses that a training process is started with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from udfs.drawing.splits import HELD_OUT_SEED
from udfs.specs import GME, READ_ANYWHERE, Dtype, ModelProfile, ReadSpec

Direction = str  # "t2i", "i2i", "it2i", …: modalities of the query, 2, modalities of the positive


@dataclass(frozen=True)
class DrawnSpec:
    """Pairs from the drawn catalogue's train split. `cache`: folder where pictures are kept once drawn."""

    cache: str
    views: int = 10  # pictures of each combination
    seed: int = 0
    held_out_seed: int = HELD_OUT_SEED


@dataclass(frozen=True)
class PairsSpec:
    """A table of pairs as an Arrow file (columns: `udfs.training.data.PAIRS_SCHEMA`)."""

    path: str
    weights: tuple[tuple[Direction, float], ...] = ()  # share of each direction; (): by their rows
    homogeneous: bool = False  # one direction a batch
    negatives: int = 8  # hard negatives of a pair in one step, at most (GME: 8)
    image_base: str = ""  # folder (path or URI) that relative image paths start from
    crop: float = (
        1.0  # least share of a picture's area that a random cut keeps; 1: pictures as they are
    )
    reading: ReadSpec = READ_ANYWHERE


@dataclass(frozen=True)
class ModelOptions:
    """What is trained, and how a row becomes a vector. Encoder only reads last-token, causal checkpoints."""

    lora_rank: int = 0  # 0: all weights
    lora_alpha: int = 16
    pooling: Literal["last", "mean"] = "last"
    attention: Literal["causal", "bidirectional"] = "causal"
    precision: Literal["float32", "bfloat16"] = "float32"
    layer_checkpointing: bool = False  # activations of a layer are computed again in the backward
    gradient_cache: bool = (
        False  # activations of one model batch in memory at a time, at a second forward
    )
    token_budget: int = 4096  # padded tokens of one model batch
    patch_budget: int = 4096  # vision patches of one model batch
    waste: int = 256  # padding tokens of one model batch


@dataclass(frozen=True)
class OptimiserOptions:
    """AdamW with warm-up and decay. Defaults are GME's LoRA recipe."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.98)
    # Gradients below it are rounding noise, which Adam's own 1e-8 would turn into full steps, other ones on every
    # number of processes.
    eps: float = 1e-6
    weight_decay: float = 0.0
    warmup: float = 0.06  # share of the whole training
    decay: Literal["linear", "cosine"] = "linear"
    clip: float = 1.0  # norm of all gradients


@dataclass(frozen=True)
class TrainSpec:
    """One training, the same for every process of it.

    Either `steps` or `minutes` is set: a training over minutes follows the clock with its learning rate, so it
    is not repeatable to the bit. `batch` is the number of pairs in a step over all processes.
    """

    base: str  # checkpoint folder to start from
    output: (
        str  # checkpoint folder to write; "": none is written, the scores are all that is wanted
    )
    work: str  # folder of training checkpoints, metrics and scores
    profile: ModelProfile = GME
    drawn: DrawnSpec | None = None
    pairs: PairsSpec | None = None
    validation: PairsSpec | None = None
    drawn_share: float = 0.8  # of the steps, where both kinds of data are given
    batch: int = 64
    steps: int | None = None
    minutes: float | None = None
    temperature: float = 0.03
    directions: tuple[Direction, ...] = ()  # train on these alone; (): all that the data has
    instructions: bool = True
    hard_negatives: bool = True
    share_of_data: float = 1.0  # train on this share of the pairs or combinations
    model: ModelOptions = ModelOptions()
    optimiser: OptimiserOptions = OptimiserOptions()
    seed: int = 0
    checkpoint_every: int = 200  # steps
    validate_every: int = 0  # steps; 0: never
    processes: int = 1
    threads: int = 1  # of each process
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Dtype = "float16"  # of the written weights


def spec_key(spec: TrainSpec) -> str:
    """A hash of all settings that change the steps; places, pace and the number of processes do not."""
    fixed = replace(
        spec,
        output="",
        work="",
        processes=1,
        threads=1,
        device="cpu",
        checkpoint_every=1,
        validate_every=0,
        validation=None,
        drawn=replace(spec.drawn, cache="") if spec.drawn else None,
        pairs=replace(spec.pairs, reading=READ_ANYWHERE) if spec.pairs else None,
    )
    return hashlib.sha256(repr(fixed).encode()).hexdigest()[:16]
