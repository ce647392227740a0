"""DRIVER: one file a job, verb_noun, thin: settings, read, transform, write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.lake.lake import Lake
    from jobs.settings.settings import Settings
    from jobs.stages.sql.function_set import FunctionSet


def open_lake(*config: str, sets: Iterable[str] = ()) -> Lake:
    """The lake that commands with these --config files and --set strings work on, with its views and functions.

    For notebooks and scripts; `.spark` is its session. Raises SettingsError and LakeError.
    """
    from jobs.driver.session import open_session
    from jobs.lake.lake import Lake
    from jobs.settings.load import load_settings

    settings = load_settings(files=config, sets=sets)
    lake = Lake(open_session(settings), settings.lake)
    publish(lake, settings)
    return lake


def register_functions(spark: SparkSession) -> None:
    """Make the SQL functions of a lake known in a session that is connected to `gme-lake serve-sql` by Spark Connect.

    They are those of the process that serves: its model, index and settings. Raises LakeError where no lake is served
    behind this session, or by another Python than this one.
    """
    from jobs.stages.sql.function_set import create_told_functions

    create_told_functions(spark)


def publish(lake: Lake, settings: Settings) -> FunctionSet:
    """Make views and functions of a lake known in its session, whether or not its catalog keeps views for others.

    Gives what other sessions are to be told of the functions.
    """
    from jobs.lake.sql_catalog import publish_catalog
    from jobs.stages.sql.session_functions import register_functions

    publish_catalog(lake)
    return register_functions(lake, settings)
