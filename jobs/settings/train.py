"""Settings of train-embedder and ablate-training, mine-negatives and the drawn data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from jobs.settings.section import Names, Section, split_list
from udfs.specs import MAX_K, Dtype


class TrainSettings(Section):
    """Contrastive training of an embedder. Defaults are GME's recipe (LoRA) for a published checkpoint."""

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


class AblateSettings(Section):
    """Strategies of training, each a change of section train."""

    strategies: str = Field(
        "ablations.yaml", description="YAML file of strategies: a path, or a name in conf/"
    )
    only: Names = Field(
        default_factory=list, description="names of the strategies to take; none: all"
    )
    seeds: Annotated[list[int], BeforeValidator(split_list), Field(min_length=1)] = Field(
        default_factory=lambda: [0], description="every strategy is trained with each of them"
    )
    trained: str = Field(
        "", description="what `base: trained` of a strategy means; empty: train.base"
    )
    metric: str = Field("ndcg@10", description="of the table: ndcg@10, hit@1 or hit@10")
    folder: str | None = Field(
        None, description="local folder of trainings, table and plot; null: ROOT/ablations"
    )


class MineSettings(Section):
    """Hard negatives for a table of pairs. k is GME's, depth and highest are NV-Retriever's, skip is BGE's idea."""

    pairs: str = Field("", description="table of pairs: Delta name or path, or a .parquet path")
    tasks: Names = Field(
        default_factory=list,
        description="retrieval tasks (as evaluate.tasks) whose train split's judgements are pairs too",
    )
    output: str = Field("", description="Delta table (name or path) of pairs to write; replaced")
    image_base: str = Field(
        "", description="folder (path or URI) that relative image paths start from, as in train"
    )
    corpus: Literal["positives", "tasks"] = Field(
        "positives",
        description="candidates: the positives of all pairs; tasks: all documents of the tasks too",
    )
    choose: Literal["nearest", "random"] = Field(
        "nearest", description="nearest: by the model; random: what a first stage of GME trains on"
    )
    k: int = Field(8, ge=1, le=MAX_K, description="negatives of a pair")
    depth: int = Field(
        100, ge=1, le=MAX_K, description="candidates looked at, right answers among them"
    )
    skip: int = Field(0, ge=0, description="leave out the best so many that are no right answers")
    highest: float | None = Field(
        0.95,
        gt=0,
        description="leave out what scores more than this share of the positive's score: unmarked right answers; null "
        "where all right answers are marked",
    )
    own_picture: bool = Field(
        False, description="the picture of a query with text, alone, is its first negative"
    )
    seed: int = Field(0, description="of random negatives")


class DrawSettings(Section):
    """The drawn demo catalogue, and training pairs of it."""

    rows: int = Field(2400, ge=1, description="rows (or pairs) to draw")
    files: int = Field(6, ge=1, description="files of the Delta table")
    seed: int = Field(0, description="seed of the pictures")
