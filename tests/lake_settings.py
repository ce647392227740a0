"""The settings that a test's lake was opened by: stages are told theirs, and a lake knows none."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from pyspark.sql import SparkSession

from jobs.lake.lake import Lake
from jobs.settings.settings import Settings

_OPENED_BY: WeakKeyDictionary[Lake, Settings] = WeakKeyDictionary()


def lake_of(spark: SparkSession, settings: Settings) -> Lake:
    """A lake, opened."""
    lake = Lake(spark, settings.lake)
    _OPENED_BY[lake] = settings
    return lake


def settings_of(lake: Lake) -> Settings:
    """What `lake_of` opened a lake by."""
    return _OPENED_BY[lake]
