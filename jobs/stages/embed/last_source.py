"""The source table that a model's vectors were last made from, for what is made of its other columns."""

from __future__ import annotations

import json

from jobs.lake.lake import Lake
from jobs.settings.embed import SourceSettings
from jobs.stages.embed.history import source_runs
from jobs.stages.embed.source import Source
from udfs.errors import LakeError


def find_source(
    lake: Lake, *, model_id: str, max_image_bytes: int | None = None, text: bool = False
) -> Source | None:
    """The source table that the model's vectors were made from, as its last run read it; None where that is unknown.

    Without `max_image_bytes` its pictures are not looked at, and its text only where it is asked for. Raises LakeError
    where the table, or a column, is gone.
    """
    settings = last_source(lake, model_id=model_id)
    if settings is None:
        return None
    if max_image_bytes is None:
        settings = settings.model_copy(update={"image": None, "image_uri": None})
        if not text:
            settings = settings.model_copy(update={"text": ""})
    return Source.open(lake, settings, max_image_bytes=max_image_bytes or 0)


def require_source(lake: Lake, *, model_id: str, asking: str, text: bool = False) -> Source:
    """As `find_source`, without pictures. Where it is unknown LakeError is raised, which begins with `asking`."""
    source = find_source(lake, model_id=model_id, text=text)
    if source is None:
        raise LakeError(
            f"{asking} about the source table, but no run of embed-table for model {model_id} is in "
            f"{lake.name('runs')} to tell which that is"
        )
    return source


def last_source(lake: Lake, *, model_id: str) -> SourceSettings | None:
    """How the model's last run read its source table, which need not be there any more; None where there was no run."""
    runs = source_runs(lake, model_id=model_id).orderBy("started_at", ascending=False)
    run = runs.select("settings", "source_table").first()
    if run is None:
        return None
    settings = {**json.loads(run.settings)["source"], "table": run.source_table}
    known = {name: settings[name] for name in SourceSettings.model_fields if name in settings}
    return SourceSettings(**known)
