"""Settings of evaluate-retrieval and mine-negatives: which tasks, how ranked, compared with what."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def listed(value: Any) -> Any:
    """`--set a.b=x,y` as a list."""
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


Names = Annotated[list[str], BeforeValidator(listed)]


class EvaluateSettings(BaseModel):
    """Which retrieval tasks are evaluated, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: Names = Field(
        default_factory=list,
        description="task files (YAML, e.g. umrb.yaml) and folders with a tasks.json",
    )
    data: str = Field(".", description="folder (path or URI) that folders in task files start from")
    only: Names = Field(default_factory=list, description="names of the tasks to take; none: all")
    split: str | None = Field(None, description="split of all tasks; null: each task's own")
    depth: int = Field(100, ge=10, le=1000, description="length of the rankings")
    index: bool = Field(
        False, description="rank through an index (section index) too, and report the difference"
    )
    against: str | None = Field(
        None, description="evaluation_id to compare with, query by query; null: none"
    )
    report: str | None = Field(None, description="HTML page to write")
