"""release: promote an index to what everybody sees, roll back by one append, list what was released."""

from __future__ import annotations

import functools

import click

from jobs.driver.cli import CommandGroup, JobContext, job
from jobs.driver.printing import Report

_SECTIONS = ("release", "model", "lake", "metrics", "mlflow", "spark")


@job(sections=_SECTIONS, name="promote")
@click.option("--index-id", help="Index to release; default: the newest of the model.")
@click.option(
    "--model",
    help="Model to release, where it is another than the current release's: alias, version, or the beginning of its "
    "model_id. Default: model.alias or model.version.",
)
@click.option("--note", help="Kept with the release.")
@click.option(
    "--force",
    is_flag=True,
    help="Release it although refresh-lake has refused it; --note has to say why, and is recorded.",
)
def promote_command(
    context: JobContext, index_id: str | None, model: str | None, note: str | None, force: bool
) -> Report:
    """Make an index, its model and its version of `vectors` what analysts and searches see.

    Refused where files of the index are gone, where `vectors` has moved on further than the settings of section release
    allow, where the model is another than the current release's and not named by --model, and where the gate of
    refresh-lake has refused the index.
    """
    if force and not note:
        raise click.UsageError("--force needs --note, which says why")
    from jobs.lake.releases import (
        current_release,
        model_named,
        newest_index,
        promote,
        require_model_wanted,
    )

    lake, registry = context.lake, context.registry
    with context.open_run("release") as run:
        before = current_release(lake)
        model_id = None if model is None else model_named(lake, registry, model)
        if index_id is None:
            if model_id is None:
                run.model = registry.resolve()
                require_model_wanted(before, model_id=run.model.spec.model_id)
            wanted = run.model.spec.model_id if run.model else str(model_id)
            index_id = newest_index(lake, model_id=wanted)
        released = promote(
            lake,
            run,
            index_id=index_id,
            limits=context.settings.release,
            model_id=model_id,
            note=note,
            force=force,
        )
        run.tags.update({"index_id": index_id, "release_id": str(released.release_id)})
    if released == before:
        said = f"nothing to release: index {index_id} is that of the current {released}"
        return Report(said, {**vars(released), "released": False, "run_id": run.run_id})
    return Report.of(released, run_id=run.run_id)


@job(sections=("lake", "metrics", "mlflow", "spark"), name="rollback", quick=True)
@click.option(
    "--to",
    type=int,
    help="Release to go back to; default: what was shown before the current one. A second rollback goes one further.",
)
def rollback_command(context: JobContext, to: int | None) -> Report:
    """Release again what an earlier release showed."""
    from jobs.lake.releases import rollback

    with context.open_run("release") as run:
        released = rollback(context.lake, run, to=to)
        run.tags["release_id"] = str(released.release_id)
    return Report.of(released, run_id=run.run_id)


@job(sections=("lake", "spark"), name="list", quick=True)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many, newest first.",
)
def list_command(context: JobContext, limit: int) -> Report:
    """Show the releases, newest first; the first is the current one."""
    from jobs.reports.release_table import list_releases, print_releases

    releases = list_releases(context.lake, limit=limit)
    return Report(functools.partial(print_releases, releases), {"releases": releases})


command = CommandGroup(
    "release",
    help="Promote an index to what everybody sees, roll back, list releases.",
    commands=[promote_command, rollback_command, list_command],
)

if __name__ == "__main__":
    command()
