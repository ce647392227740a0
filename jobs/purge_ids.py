"""purge_ids: the vectors of some ids go from every file of the lake, and every file is read to prove it."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("embed", "lake", "mlflow", "spark"))
@click.option("--ids", help="Ids to purge, separated by commas.")
@click.option(
    "--ids-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with an id a line: for many of them, and for ids with commas.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Look into every file, say what would be removed, and remove nothing.",
)
def command(context: JobContext, ids: str | None, ids_file: Path | None, dry_run: bool) -> Report:
    """Purge ids (right to be forgotten): afterwards no file of the lake holds them or their vectors.

    Delete their rows from the source table first. Vector rows of all models go, with the table files of older versions;
    the released index is built again without them, other indexes that hold them are removed, and releases of those can
    no longer be rolled back to. Then every file is read again: ends with status 1 where one still holds an id, a
    vector_id or a vector of it, one row each. What cannot be reached from here is named. Nothing else may work in the lake
    meanwhile; status 6 where something does. Killed anywhere, run it again.
    """
    from jobs.stages.purge.job import plan_purge, purge_ids

    wanted = _read_ids(ids, ids_file)
    if dry_run:
        planned = plan_purge(context.lake, wanted)
        return Report(f"would purge {planned}", {"purged": False, **planned.values()})
    with context.open_run("purge_ids") as run:
        timeout = context.settings.embed.claim_seconds
        report = purge_ids(context.lake, run, wanted, timeout=timeout)
    values = {"purged": True, **report.values(), "run_id": run.run_id}
    return Report(str(report), values, status=0 if report.ok else 1)


def _read_ids(ids: str | None, file: Path | None) -> list[str]:
    """The ids of both options. Raises click.UsageError where there is none."""
    found = [name.strip() for name in (ids or "").split(",")]
    if file is not None:
        # Editors put a mark before the first line, and splitlines() would part an id at more than the end of a line.
        found += file.read_text("utf-8-sig").split("\n")
    wanted = sorted({name for name in found if name.strip()})
    if not wanted:
        raise click.UsageError("no id to purge: give --ids a,b or --ids-file FILE")
    return wanted


if __name__ == "__main__":
    command()
