"""Settings of evaluate-retrieval: which tasks, how ranked, compared with what."""

from __future__ import annotations

from pydantic import Field

from jobs.settings.section import Names, Section
from udfs.specs import MAX_K


class EvaluateSettings(Section):
    """Which retrieval tasks are evaluated, and how."""

    tasks: Names = Field(
        default_factory=list,
        description="task files (YAML, e.g. umrb.yaml) and folders with a tasks.json",
    )
    data: str = Field(".", description="folder (path or URI) that folders in task files start from")
    only: Names = Field(default_factory=list, description="names of the tasks to take; none: all")
    split: str | None = Field(None, description="split of all tasks; null: each task's own")
    depth: int = Field(100, ge=10, le=MAX_K - 1, description="length of the rankings")
    index: bool = Field(
        False,
        description="rank through an index of each corpus (section index) too, and report the difference to exact",
    )
    against: str | None = Field(
        None, description="evaluation_id to compare with, query by query; null: none"
    )
    floors: str | None = Field(
        None,
        description="YAML file of figures to beat, by task, metric and name (e.g. floors.yaml); chance needs none",
    )
    report: str | None = Field(None, description="HTML page to write")
