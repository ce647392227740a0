"""Settings of find-duplicates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.settings.search import EXECUTOR_BYTES
from jobs.settings.section import Section
from udfs.specs import MAX_K


class DuplicatesSettings(Section):
    """Near duplicates among the vectors of the release."""

    pairs: str = Field("", description="Delta table (name or path) of pairs; replaced")
    clusters: str = Field("", description="Delta table (name or path) of clusters; replaced")
    threshold: float = Field(
        0.95,
        gt=0,
        le=1,
        description="lowest cosine of a pair (1: the same vector, to within .00001)",
    )
    k: int = Field(
        10, ge=1, lt=MAX_K, description="neighbours per row, of those that it may make a pair with"
    )
    group_by: str | None = Field(
        None,
        description="column of the source table, such as a shop or a category, by which group_pairs chooses pairs",
    )
    group_pairs: Literal["within", "across"] = Field(
        "within",
        description="within: pairs of rows with the same value of group_by; across: with different values. A row "
        "without a value is in no pair within, and has a value of its own across",
    )
    max_cluster: int = Field(
        1000, ge=2, description="rows of a cluster; larger ones are kept, and reported as chains"
    )
    max_pairs: int = Field(
        5_000_000, ge=1, description="pairs that the driver may cluster; more are refused"
    )
    nprobe: int | None = Field(None, ge=1, description="lists looked at; null: the index's own")
    k_factor: int | None = Field(None, ge=1, description="candidates re-ranked per neighbour")
    executor_bytes: int = Field(
        EXECUTOR_BYTES, ge=1, description="files of an index that one task may open"
    )
    report: str | None = Field(None, description="HTML page of the largest clusters to write")
