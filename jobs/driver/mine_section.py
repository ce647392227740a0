"""Settings of mine-negatives: which pairs, which candidates, how many negatives, and the guards against false ones."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.driver.evaluate_section import Names
from udfs.specs import MAX_K


class MineSettings(BaseModel):
    """Hard negatives for a table of pairs. k is GME's, depth and highest are NV-Retriever's, skip is BGE's idea."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
