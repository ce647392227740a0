"""Settings of search and search-table."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.settings.section import Section
from udfs.specs import MAX_K

EXECUTOR_BYTES = 34_359_738_368


class SearchSettings(Section):
    """Batch searches and the search command."""

    queries: str = Field("", description="query table: Delta name or path, or .parquet/.jsonl")
    output: str = Field("", description="Delta table (name or path) of results; replaced")
    k: int = Field(10, ge=1, le=MAX_K, description="results per query where the query row has no k")
    filter: str | None = Field(
        None,
        description="SQL predicate over the source table; only rows that it holds for are found, all k of them: "
        "category = 'shoes' AND price < 50",
    )
    min_score: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="lowest inner product of a result, to within .00001 (1: exact copies); k bounds their number",
    )
    group_by: str | None = Field(
        None,
        description="column of the source table of which results share a value at most max_per",
    )
    max_per: int = Field(1, ge=1, description="results of one value of group_by, at most")
    nprobe: int | None = Field(None, ge=1, description="lists looked at; null: the index's own")
    k_factor: int | None = Field(None, ge=1, description="candidates re-ranked per result")
    recall: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="instead of both: the operating point that tune-index stored for this recall at search.k",
    )
    freshness: Literal["complete", "indexed_only"] = Field(
        "complete",
        description="complete: rows embedded since the index was built are searched too; indexed_only: they are not",
    )
    scatter: Literal["auto"] | bool = Field(
        "auto",
        description="true: each shard is searched in tasks of its own; false: every task opens them all; auto: as "
        "many together as executor_bytes allow",
    )
    executor_bytes: int = Field(
        EXECUTOR_BYTES, ge=1, description="files of an index that one task may open"
    )
    image_base: str | None = Field(
        None, description="folder (path or URI) that relative image paths of queries start from"
    )
    report: str | None = Field(None, description="HTML page with thumbnails to write")
