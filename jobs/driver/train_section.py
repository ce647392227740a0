"""Settings of train-embedder: data, length, and recipe of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.driver.evaluate_section import Names
from udfs.specs import Dtype


class TrainSettings(BaseModel):
    """Contrastive training of an embedder. Defaults are GME's recipe (LoRA) for a published checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = Field(
        "scratch",
        description="checkpoint folder or cached hub id to start from; scratch: a new one",
    )
    output: str = Field("", description="local folder of the trained checkpoint")
    work: str | None = Field(
        None, description="folder of training state and metrics; null: OUTPUT-training"
    )
    drawn: bool = Field(False, description="train on the drawn catalogue's train split")
    pairs: str = Field("", description="table of pairs: Delta name or path, or a .parquet path")
    tasks: Names = Field(
        default_factory=list,
        description="retrieval tasks (as evaluate.tasks) whose train split's judgements are pairs too",
    )
    validation: str = Field("", description="table of pairs that are only searched, not trained on")
    drawn_share: float = Field(
        0.8, ge=0, le=1, description="steps on drawn pairs where both are given"
    )
    image_base: str = Field(
        "", description="folder (path or URI) that relative image paths start from"
    )
    weights: dict[str, float] = Field(
        default_factory=dict,
        description="share of each direction (t2i, i2i, it2i, …); none: by rows",
    )
    homogeneous: bool = Field(False, description="one direction in a batch")
    negatives: int = Field(8, ge=0, description="hard negatives of a pair in one step, at most")
    views: int = Field(10, ge=2, description="drawn pictures of each combination")
    cache: str | None = Field(None, description="folder of drawn pictures; null: WORK/drawn")
    crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="pictures of pairs: cut out at random, at least this share of the area, and mirrored; 1: as they are",
    )
    share_of_data: float = Field(1.0, gt=0, le=1, description="train on a part of the data")

    steps: int | None = Field(None, ge=1, description="length in steps; repeatable")
    minutes: float | None = Field(None, gt=0, description="length by the clock, instead of steps")
    batch: int = Field(64, ge=2, description="pairs in a step, over all processes")
    lr: float = Field(1e-4, gt=0, description="highest learning rate")
    decay: Literal["linear", "cosine"] = Field(
        "linear", description="of the rate after the warm-up"
    )
    warmup: float = Field(
        0.06, ge=0, lt=1, description="share of the training that the rate rises for"
    )
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    temperature: float = Field(0.03, gt=0, description="of the softmax over cosines")
    directions: Names = Field(
        default_factory=list,
        description="train on these alone (drawn: t2i, i2i, it2i); none: all that the data has",
    )
    instructions: bool = Field(True, description="false: leave the queries' instructions out")
    hard_negatives: bool = Field(True, description="false: in-batch negatives only")
    seed: int = Field(0, description="of weights, adapters and sampling")

    lora_rank: int = Field(8, ge=0, description="rank of the adapters; 0: train all weights")
    pooling: Literal["last", "mean"] = Field(
        "last", description="last is GME's; mean: of all tokens, in ablate-training alone"
    )
    attention: Literal["causal", "bidirectional"] = Field(
        "causal", description="causal is GME's; bidirectional in ablate-training alone"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="of the arithmetic; weights and optimiser are float32"
    )
    gradient_cache: bool = Field(
        False, description="memory for one model batch's activations, at one more forward pass"
    )
    layer_checkpointing: bool = Field(False, description="compute a layer's activations twice")
    token_budget: int = Field(8192, ge=1, description="padded tokens of one model batch")
    patch_budget: int = Field(8192, ge=1, description="image patches of one model batch")
    dtype: Dtype = Field("float16", description="of the written weights")

    processes: int = Field(1, ge=1, description="training processes")
    threads: int = Field(1, ge=1, description="CPU threads of each")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cpu, or one GPU a process")
    local: bool = Field(True, description="processes on the driver; false: in Spark tasks")
    checkpoint_every: int = Field(200, ge=1, description="steps between two saved states")
    validate_every: int = Field(0, ge=0, description="steps between two validations; 0: none")

    hidden: int = Field(128, description="scratch: width of vectors and language model")
    layers: int = Field(2, ge=1, description="scratch: layers of the language model")
    vision_dim: int = Field(96, description="scratch: width of the vision tower")
    vision_depth: int = Field(3, ge=1, description="scratch: blocks of the vision tower")
    vocab: int = Field(2048, description="scratch: entries of the tokenizer")
