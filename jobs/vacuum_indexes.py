"""vacuum_indexes: indexes that nobody searches, adds to or can roll back to, and what killed runs left, are removed."""

from __future__ import annotations

from datetime import timedelta

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("lake", "metrics", "mlflow", "spark"))
@click.option(
    "--releases",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Keep the indexes of so many releases: the newest, and the current one with those that rollbacks go to.",
)
@click.option(
    "--retain-hours",
    type=click.FloatRange(min=0),
    default=168,
    show_default=True,
    help="Keep what has not been unused for so long: a run may be writing or reading it.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
def command(context: JobContext, releases: int, retain_hours: float, dry_run: bool) -> Report:
    """Remove indexes that are not needed any more, in two steps.

    An index that nothing needs is marked; a later run removes it, when it has been marked for --retain-hours and is still
    not needed (with 0, the same run). Kept are those of the newest releases and of rollbacks, the newest of each model
    that has vectors, and what kept ones add to. Folders without an index and intermediate files go too once they are old
    enough: runs that were killed left them. Nothing outside the lake is touched.
    """
    from jobs.lake.claims import claim
    from jobs.stages.index.vacuum import plan_vacuum, vacuum

    retain = timedelta(hours=retain_hours)
    if dry_run:
        planned = plan_vacuum(context.lake, releases=releases, retain=retain)
        return Report(f"would remove {planned}", {"removed": False, **vars(planned)})
    with (
        context.open_run("vacuum_indexes") as run,
        claim(run, name=run.job, timeout=context.settings.embed.claim_seconds),
    ):
        planned = plan_vacuum(context.lake, releases=releases, retain=retain)
        done = vacuum(context.lake, run, planned)
    return Report(f"removed {done}", {"removed": True, **vars(done), "run_id": run.run_id})


if __name__ == "__main__":
    command()
