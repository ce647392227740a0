"""Settings of build-index, measure-recall and tune-index."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.settings.section import Counts, Names, Section


class IndexSettings(Section):
    """Shape of the index; what is not set follows from the number of rows."""

    factory: str | None = Field(
        None, description="faiss factory string, {nlist} allowed; null: by rule"
    )
    nlist: int | None = Field(None, ge=1, description="inverted lists; null: by rule")
    shards: int | None = Field(None, ge=1, description="shards; null: one per 25 million rows")
    train_rows: int | None = Field(None, ge=1, description="training sample; null: 64 per list")
    refine: Literal["fp16", "none"] | None = Field(
        None, description="fp16: vectors kept for exact re-ranking; none; null: by rule"
    )
    nprobe: int | None = Field(None, ge=1, description="lists looked at by default; null: by rule")
    k_factor: int | None = Field(None, ge=1, description="candidates re-ranked per result")
    seed: int = Field(0, description="seed of sample and training")
    full_text: bool = Field(
        False,
        description="index the rows' texts too, for hybrid_search (needs gme-lake[full-text])",
    )
    extend: bool = Field(
        True,
        description="add what is new to the last whole index while that is up to 20 %; false: always build whole",
    )


class RecallSettings(Section):
    """Queries that measure an index, and the points it is measured at."""

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


class TuneSettings(Section):
    """What tune-index is to reach, with the queries of section recall."""

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
