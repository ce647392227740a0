"""The command line: `gme-lake <verb-noun>`, one click command per job, common options, errors as one message."""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.driver.settings import Settings, load_settings
from udfs.errors import GmeLakeError

if TYPE_CHECKING:
    from jobs.driver.lake import Lake
    from jobs.driver.registry import Registry


class JobContext:
    """What a job's command gets: settings, and the session, lake and registry opened when first used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def lake(self) -> Lake:
        """The open lake, with views and functions registered in its session."""
        from jobs.driver.catalog import publish_catalog
        from jobs.driver.lake import Lake
        from jobs.driver.session import open_session

        lake = Lake(open_session(self.settings), self.settings)
        publish_catalog(lake)
        return lake

    @cached_property
    def registry(self) -> Registry:
        """The MLflow registry."""
        from jobs.driver.registry import Registry

        return Registry(self.settings)


def job(
    *, sections: Sequence[str], name: str | None = None
) -> Callable[[Callable[..., None]], click.Command]:
    """Turn `function(context, **own options)` into a job's command.

    Adds --config, --set and --debug; `sections` are the settings the job reads, listed in its --help. `name` is
    for jobs with several commands: their module's `command` is a click.Group of them.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(config: tuple[str, ...], sets: tuple[str, ...], debug: bool, **own: Any) -> None:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
            for noisy in ("mlflow", "alembic", "py4j", "httpx", "faiss.loader"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            try:
                function(JobContext(load_settings(files=config, sets=sets)), **own)
            except GmeLakeError as error:
                if debug:
                    raise
                raise click.ClickException(str(error)) from None
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except Exception as error:
                if debug:
                    raise
                first = next((line for line in str(error).splitlines() if line.strip()), "")
                raise click.ClickException(
                    f"{type(error).__name__}: {first.strip()} (--debug shows the traceback)"
                ) from None

        # The file, not __module__: that is __main__ under spark-submit and python -m.
        own_name = name or Path(function.__code__.co_filename).stem.replace("_", "-")
        command: click.Command = click.command(
            own_name, epilog=_settings_help(sections), cls=_JobCommand
        )(run)
        for option in _common_options():
            command = option(command)
        return command

    return decorate


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    gme_lake().main(args=None if argv is None else list(argv), prog_name="gme-lake")


def gme_lake() -> click.Group:
    """The group of all jobs."""
    return _Jobs(
        "gme-lake",
        help="Embed, index, search and release image-text tables in Delta Lake with GME.\n\n"
        "Every command reads settings from --config files, GME_LAKE_SECTION__KEY variables and --set; "
        "what comes later in this list wins. COMMAND --help lists the settings a command reads.",
    )


class _Jobs(click.Group):
    """Finds a command in the job module of its name and imports only that one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        package = importlib.import_module("jobs")
        return sorted(
            m.name.replace("_", "-") for m in pkgutil.iter_modules(package.__path__) if not m.ispkg
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"jobs.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            known = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"No such command {args[0]!r}. Commands: {known}", ctx) from None


class _JobCommand(click.Command):
    """Prints the settings table of its epilog as it is, without re-wrapping."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write("\n" + self.epilog + "\n")


def _common_options() -> list[Callable[[click.Command], click.Command]]:
    return [
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        click.option(
            "--set", "sets", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting."
        ),
        click.option(
            "--config", multiple=True, metavar="FILE", help="YAML file, or a name in conf/."
        ),
    ]


def _settings_help(sections: Sequence[str]) -> str:
    lines = ["Settings (--set SECTION.KEY=VALUE):"]
    for section in sections:
        model = type(Settings.model_fields[section].default)
        for name, field in model.model_fields.items():
            default = "null" if field.default is None else str(field.default)
            shown = f" [{default}]" if default and not field.default_factory else ""
            lines.append(f"  {section}.{field.alias or name}{shown}\n      {field.description}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
