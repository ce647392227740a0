"""status: what is released, how fresh it is, what was rejected, what the last runs and the next refresh do."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(
    sections=("source", "model", "embed", "index", "plan", "lake", "metrics", "mlflow", "spark"),
    quick=True,
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a page: recall and coverage over time, gates, rejected rows with pictures, runs.",
)
@click.option(
    "--plan/--no-plan",
    "planned",
    default=True,
    help="Whether to compare the source with its vectors, where it has changed since the last run.",
)
def command(context: JobContext, html: Path | None, planned: bool) -> Report:
    """Show the state of the lake to whoever operates it; nothing is written into it.

    Where source.table is set, that is what the next refresh would do: which rows are not embedded, and in what time, by
    earlier runs. No model is asked; gme-lake refresh-lake --dry-run also tries one.
    """
    from jobs.reports.lake_status import RUNS, print_status, read_status
    from jobs.stages.refresh.outlook import look_ahead
    from jobs.stages.status.page import RUNS_SHOWN, write_page

    lake, settings = context.lake, context.settings
    status = read_status(lake, runs=RUNS if html is None else RUNS_SHOWN)
    outlook = look_ahead(lake, context.registry, settings) if planned else None
    more = outlook.lines() if outlook else []
    values = {**status.values(), **(outlook.values() if outlook else {})}
    if html is not None:
        page = write_page(
            html,
            lake,
            status=status,
            outlook=outlook,
            max_image_bytes=settings.embed.max_image_bytes,
        )
        more.append(f"page: {page}")
        values["page"] = page
    context.write_metrics(status)
    return Report(functools.partial(print_status, status, more=more), values)


if __name__ == "__main__":
    command()
