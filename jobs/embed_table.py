"""embed_table: every source row gets an up-to-date vector of the registered model, exactly once."""

from __future__ import annotations

import functools

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("source", "model", "embed", "serving", "lake", "metrics", "mlflow", "spark"))
@click.option(
    "--check",
    is_flag=True,
    help="Try about 20 rows: text, picture, tokens, vector, time; nothing is written into the lake.",
)
def command(context: JobContext, check: bool) -> Report:
    """Embed the rows of source.table that have no up-to-date vector for the model.

    Rows that cannot be embedded get a vector row with a status and a reason. Run it again at any time: it
    continues where it was stopped, and embeds nothing where nothing has changed.
    """
    from jobs.stages.embed.check import check_rows, print_check
    from jobs.stages.embed.job import embed_table

    model = context.registry.resolve()
    settings = context.settings
    source, embed, serving = settings.source, settings.embed, settings.serving.spec()
    if check:
        checked = check_rows(context.lake, model=model, source=source, embed=embed, serving=serving)
        return Report(functools.partial(print_check, checked), checked.values())
    with context.open_run("embed_table") as run:
        report = embed_table(
            context.lake, run, model=model, source=source, embed=embed, serving=serving
        )
    return Report.of(report, run_id=run.run_id)


if __name__ == "__main__":
    command()
