"""The command line: `gme-lake <verb-noun>`, one click command per job, common options, results and errors as text or
JSON.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from jobs.driver.printing import Report, json_line, only_the_result, print_report
from jobs.driver.stopping import Stopped, Stopping, stop_on_signals
from jobs.driver.task_errors import root_cause
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from udfs.errors import GmeLakeError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.lake.lake import Lake
    from jobs.lake.registry import Registry
    from jobs.lake.runs import Run
    from jobs.reports.lake_status import LakeStatus

log = logging.getLogger("gme_lake")


class JobContext:
    """What a job's command gets: settings, and the session, lake and registry opened when first used."""

    def __init__(
        self, settings: Settings, *, stopping: Stopping | None = None, quick: bool = False
    ) -> None:
        self.settings = settings
        self._stopping, self._quick = stopping, quick

    @cached_property
    def session(self) -> SparkSession:
        """The Spark session; on the command line a signal cancels its jobs, and errors are said once."""
        from pyspark.logger import PySparkLogger

        from jobs.driver.session import open_session

        session = open_session(self.settings, quick=self._quick)
        if self._stopping is not None:
            # They log what comes as an exception too, with the JVM's stack, as kilobytes of JSON.
            for repeating in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
                PySparkLogger.getLogger(repeating).setLevel(logging.CRITICAL)
            self._stopping.cancel = session.interruptAll
            self._stopping.take_signals()
        return session

    @cached_property
    def lake(self) -> Lake:
        """The open lake; views and functions are published where the catalog keeps them for others."""
        from jobs.lake.lake import Lake

        lake = Lake(self.session, self.settings.lake)
        if lake.outlives_session:
            from jobs.lake.sql_catalog import publish_catalog

            publish_catalog(lake)
        return lake

    @cached_property
    def registry(self) -> Registry:
        """The MLflow registry."""
        from jobs.lake.registry import Registry

        return Registry(self.settings)

    @contextmanager
    def open_run(self, job: str) -> Iterator[Run]:
        """A run of `job` in the lake, recorded there, in MLflow and in `metrics.textfile` however it ends.

        Runs that were killed before it are marked so first.
        """
        from jobs.lake.claims import mark_dead_runs
        from jobs.lake.runs import open_run
        from jobs.reports.textfile import require_folder

        if self.settings.metrics.textfile is not None:
            require_folder(self.settings.metrics.textfile)
        try:
            with open_run(self.lake, self.registry, job=job) as run:
                mark_dead_runs(run)
                yield run
        finally:
            self._write_metrics_of_run()

    def write_metrics(self, status: LakeStatus | None = None) -> None:
        """Write `metrics.textfile`, where it is set, by what the lake's tables say now; `status` where that is read already.

        SettingsError or OSError where the file cannot be written.
        """
        from jobs.reports.lake_status import read_status
        from jobs.reports.textfile import lake_metrics, write_textfile

        path = self.settings.metrics.textfile
        if path is not None:
            write_textfile(path, lake_metrics(self.lake, status or read_status(self.lake)))

    def _write_metrics_of_run(self) -> None:
        """The same after a run: what that came to is what the command ends with, and its report, whatever happens here."""
        try:
            self.write_metrics()
        except Exception as error:
            log.warning(
                "metrics.textfile=%s is not written and says what was before this run: %s",
                self.settings.metrics.textfile,
                root_cause(error),
            )


def job(
    *, sections: Sequence[str], name: str | None = None, quick: bool = False
) -> Callable[[Callable[..., Report]], click.Command]:
    """Turn `function(context, **own options) -> Report` into a job's command, which prints the report.

    Adds --config, --set, --json and --debug; `sections` are the settings the job reads, listed in its --help. `name`
    is for jobs with several commands: their module's `command` is a click.Group of them. `quick` is for jobs that read
    and write a few small rows.
    """

    def decorate(function: Callable[..., Report]) -> click.Command:
        @functools.wraps(function)
        def run(
            config: tuple[str, ...], sets: tuple[str, ...], as_json: bool, debug: bool, **own: Any
        ) -> None:
            _set_up_logging(debug=debug)
            try:
                with stop_on_signals() as stopping:
                    with only_the_result(wanted=as_json):
                        settings = load_settings(files=config, sets=sets)
                        context = JobContext(settings, stopping=stopping, quick=quick)
                        report = function(context, **own)
                    if report.serve is not None:
                        print_report(report, as_json=as_json)
                        with only_the_result(wanted=as_json):
                            report.serve()
            except Exception as error:
                _fail(error, as_json=as_json, debug=debug)
            if report.serve is None:
                print_report(report, as_json=as_json)
            if report.status:
                raise click.exceptions.Exit(report.status)

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
    """Entry point of the console script. Returns after success, and raises SystemExit with any other status.

    What calls it in its own process, as Databricks does, need not know that SystemExit(0) is no failure.
    """
    try:
        gme_lake().main(args=None if argv is None else list(argv), prog_name="gme-lake")
    except SystemExit as end:
        if end.code:
            raise


def gme_lake() -> click.Group:
    """The group of all jobs."""
    group = _Jobs(
        "gme-lake",
        help="Embed, index, search and release image-text tables in Delta Lake with GME.\n\n"
        "Every command reads settings from --config files, GME_LAKE_SECTION__KEY variables and --set; "
        "what comes later in this list wins. COMMAND --help lists the settings a command reads.",
    )
    return click.version_option(_version(), prog_name="gme-lake")(group)


def _version() -> str:
    try:
        return metadata.version("gme-lake")
    except metadata.PackageNotFoundError:  # a checkout or --py-files zip that was never installed
        return "unknown (not installed as a package)"


class CommandGroup(click.Group):
    """A group of commands that answers an unknown one with the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            hint = _did_you_mean(args[0], self.list_commands(ctx))
            raise _usage_error(f"No such command {args[0]!r}{hint}", ctx, args) from None


class _Jobs(CommandGroup):
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


class _JobCommand(click.Command):
    """Prints the settings table of its epilog as it is, without re-wrapping; its mistakes in use as JSON too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-")
            section = name.partition(".")[0]
            if "." in name and section in Settings.model_fields:
                message = (
                    f"no such option {error.option_name}: settings are given as --set {name}=VALUE"
                )
                raise _usage_error(message, ctx, given) from None
            raise _usage_error(error.format_message(), ctx, given) from None
        except click.UsageError as error:
            raise _usage_error(error.format_message(), ctx, given) from None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write("\n" + self.epilog + "\n")


def _fail(error: Exception, *, as_json: bool, debug: bool) -> NoReturn:
    """End the command with what happened: one message, as JSON too where asked for, or the traceback."""
    if isinstance(error, click.exceptions.Exit | click.Abort):
        raise error
    if isinstance(error, GmeLakeError | Stopped):
        message = shown = str(error)
    elif isinstance(error, click.ClickException):
        message = shown = error.format_message()
    else:
        message = root_cause(error)
        shown = f"{message} (--debug shows the traceback)"
    status = _status(error)
    if as_json:
        told = {"error": message, "kind": type(error).__name__, "status": status}
        click.echo(json_line(told))
    if isinstance(error, Stopped):
        click.echo(shown, err=True)
        raise click.exceptions.Exit(status) from error
    if debug or isinstance(error, click.ClickException):
        raise error
    click.ClickException(shown).show()
    raise click.exceptions.Exit(status) from None


def _status(error: Exception) -> int:
    if isinstance(error, Stopped):
        return error.status
    return error.exit_code if isinstance(error, GmeLakeError | click.ClickException) else 1


def _usage_error(message: str, ctx: click.Context, args: Iterable[str]) -> click.UsageError:
    """A mistake in the command line, said as JSON too where the line asks for that."""
    if "--json" in args:
        click.echo(json_line({"error": message, "kind": "UsageError", "status": 2}))
    return click.UsageError(message, ctx)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _set_up_logging(*, debug: bool) -> None:
    """Log to standard error: the project in full, libraries where they warn."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    for noisy in ("mlflow", "alembic", "httpx", "faiss.loader"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not debug:  # py4j raises what it logs, partly with the root logger
        logging.getLogger("py4j").setLevel(logging.CRITICAL)
        logging.getLogger().addFilter(_not_of_py4j)


def _not_of_py4j(record: logging.LogRecord) -> bool:
    return "py4j" not in Path(record.pathname).parts


def _common_options() -> list[Callable[[click.Command], click.Command]]:
    return [
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print the result, or the error, as one JSON object and nothing else; logs go to standard error.",
        ),
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
