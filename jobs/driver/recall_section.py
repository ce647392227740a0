"""Settings of measure-recall and tune-index: which queries, which index, what target."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from jobs.driver.evaluate_section import Names, listed

Counts = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(listed)]


class RecallSettings(BaseModel):
    """Queries that measure an index, and the points it is measured at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queries: str = Field("", description="query table, as search.queries; empty: held-out rows")
    image_base: str | None = Field(
        None, description="folder (path or URI) that relative image paths of queries start from"
    )
    held_out: int = Field(
        1000, ge=2, description="without queries: rows of the index that take their place, at most"
    )
    seed: int = Field(0, description="which rows are held out")
    segments: Names = Field(
        default_factory=list,
        description="columns of the query table (held-out rows: of source.table) to report by",
    )
    index: str | None = Field(
        None, description="index_id to measure; null: the one of the model built last"
    )
    k: int = Field(10, ge=1, le=1000, description="results that are compared")
    nprobe: Counts = Field(
        default_factory=list, description="lists looked at; none: around the index's own"
    )
    k_factor: Counts = Field(
        default_factory=list,
        description="candidates re-ranked per result, beside 1 (before re-rank); none: the index's own and half of it",
    )
    report: str | None = Field(None, description="HTML page to write, and a plot (.png) beside it")


class TuneSettings(BaseModel):
    """What tune-index is to reach, with the queries of section recall."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recall: float = Field(0.95, gt=0, lt=1, description="recall at k to reach for every query kind")
    k: int = Field(10, ge=1, le=1000, description="results that the recall is of")
    max_ms: float | None = Field(
        None, gt=0, description="median milliseconds of one query on one core, at most"
    )
    max_bytes: int | None = Field(
        None, ge=1, description="bytes of code and id of a vector, at most (re-rank file apart)"
    )
    min_queries: int = Field(
        200,
        ge=2,
        description="queries of each kind that the choice needs at least; as many report on it",
    )
    builds: int = Field(4, ge=1, description="indexes to build in search of one, at most")
