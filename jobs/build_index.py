"""build_index: the registered model's vectors become a sharded, searchable index, committed by one row."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("index", "model", "lake", "metrics", "mlflow", "spark"))
@click.option("--dry-run", is_flag=True, help="Show plan and estimate, and build nothing.")
def command(context: JobContext, dry_run: bool) -> Report:
    """Build the index of the model's vectors at the newest version of `vectors`.

    Prints the plan and what it will cost first. A build that was killed continues where it was stopped; an index
    that exists is not built again. Searches see it after gme-lake release promote.
    """
    from jobs.stages.index.job import build_index
    from jobs.stages.index.plan import plan_index

    model = context.registry.resolve()
    planned = plan_index(context.lake, context.settings.index, model=model)
    if dry_run:
        return Report(str(planned), planned.values())
    click.echo(planned)
    with context.open_run("build_index") as run:
        report = build_index(context.lake, run, model=model, planned=planned)
    return Report(str(report), report.values() | {"run_id": run.run_id})


if __name__ == "__main__":
    command()
