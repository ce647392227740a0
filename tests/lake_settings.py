"""The settings that a test's lake was opened by: stages are told theirs, and a lake knows none."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from pyspark.sql import SparkSession

from jobs.lake.lake import Lake
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.runs import Run, open_run
from jobs.settings.settings import Settings
from jobs.stages.embed.job import EmbedReport, embed_table

_OPENED_BY: WeakKeyDictionary[Lake, Settings] = WeakKeyDictionary()


def lake_of(spark: SparkSession, settings: Settings) -> Lake:
    """A lake, opened."""
    lake = Lake(spark, settings.lake)
    _OPENED_BY[lake] = settings
    return lake


def settings_of(lake: Lake) -> Settings:
    """What `lake_of` opened a lake by."""
    return _OPENED_BY[lake]


def embed_source(lake: Lake, registry: Registry, model: ResolvedModel) -> tuple[Run, EmbedReport]:
    """embed_table as the command runs it, by the lake's settings: the run, ended, and its report."""
    settings = settings_of(lake)
    with open_run(lake, registry, job="embed_table") as run:
        report = embed_table(
            lake,
            run,
            model=model,
            source=settings.source,
            embed=settings.embed,
            serving=settings.serving.spec(),
        )
    return run, report
