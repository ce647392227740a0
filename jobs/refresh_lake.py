"""refresh_lake: a nightly change or a new model becomes a release, or is refused with reasons and nothing lost."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report
from udfs.errors import GateError


@job(
    sections=(
        "refresh",
        "plan",
        "gate",
        "source",
        "model",
        "embed",
        "index",
        "recall",
        "evaluate",
        "release",
        "serving",
        "lake",
        "metrics",
        "mlflow",
        "spark",
    )
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would be embedded and removed, in what time, and write nothing.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Try the alias's model although it was refused or rolled back.",
)
def command(context: JobContext, dry_run: bool, again: bool) -> Report:
    """Embed what is new, index it, measure it, release it, and remove what no kept release needs.

    The model is that of model.alias. Where it is another than the release's, the source is embedded with it beside the
    old vectors; the old release serves meanwhile and is kept up to date. Schedule it: where nothing has changed it does
    nothing, killed anywhere it goes on when it is run again, and a model that was refused or rolled back is left alone
    until the alias has moved.

    \b
    Ends with
      0  released, or nothing to do
      3  refused by the gate; the old release stays
      4  over the budget of section plan; nothing was embedded
      5  rows are not accounted for, or too many were rejected or would be deleted
      6  another refresh, or another run of a step, is active
      1  another error
    """
    from jobs.stages.refresh.job import refresh_lake
    from jobs.stages.refresh.plan import add_removal, plan_refresh

    lake, registry, settings = context.lake, context.registry, context.settings
    if dry_run:
        wanted = registry.resolve()
        planned = plan_refresh(lake, registry, settings, wanted=wanted, again=again)
        planned = add_removal(lake, settings, planned)
        return Report(str(planned), planned.values())
    with context.open_run("refresh_lake") as run:
        report = refresh_lake(lake, run, registry=registry, settings=settings, again=again)
    status = GateError.exit_code if report.outcome == "refused" else 0
    return Report(str(report), report.values() | {"run_id": run.run_id}, status=status)


if __name__ == "__main__":
    command()
