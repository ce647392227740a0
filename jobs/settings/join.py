"""Settings of join-similar."""

from __future__ import annotations

from pydantic import Field

from jobs.settings.search import EXECUTOR_BYTES
from jobs.settings.section import Section
from udfs.specs import MAX_K


class JoinSettings(Section):
    """Two tables of vectors, of which each row of the left gets its nearest rows of the right."""

    left: str = Field("", description="table that asks: Delta name or path, or .parquet/.jsonl")
    right: str = Field("", description="table that is searched, given alike")
    left_id: str = Field("id", description="column that names each row of left once")
    right_id: str = Field("id", description="column that names rows of right")
    left_vector: str = Field("embedding", description="column of left with an array of numbers")
    right_vector: str = Field("embedding", description="column of right with an array of numbers")
    output: str = Field("", description="Delta table (name or path) of results; replaced")
    k: int = Field(10, ge=1, le=MAX_K, description="rows of right per row of left")
    min_score: float | None = Field(
        None, ge=-1, le=1, description="lowest cosine of a result, to within .00001"
    )
    factory: str = Field(
        "Flat",
        description="faiss factory of the temporary index of right. Flat compares all pairs; auto: so does it up to "
        "25,000 rows of left or 100,000 of right, beyond which the index is what build-index makes, and may miss some",
    )
    nprobe: int | None = Field(None, ge=1, description="lists looked at; null: by rule")
    executor_bytes: int = Field(
        EXECUTOR_BYTES, ge=1, description="files of the temporary index that one task may open"
    )
