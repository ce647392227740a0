"""DRIVER: one file a job, verb_noun, thin: settings, read, transform, write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.lake.lake import Lake
    from jobs.settings.settings import Settings


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


def publish(lake: Lake, settings: Settings) -> None:
    """Make views and functions of a lake known in its session, whether or not its catalog keeps views for others."""
    from jobs.lake.sql_catalog import publish_catalog
    from jobs.stages.sql.session_functions import register_functions

    publish_catalog(lake)
    register_functions(lake, settings)
