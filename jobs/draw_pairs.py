"""draw-pairs: draw training pairs of the product catalogue as a table, to try mine-negatives and train-embedder on."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.session import open_session
from jobs.stages.drawing import draw_pairs


@job(sections=("draw", "source", "spark"))
@click.option("--overwrite", is_flag=True, help="Replace the table if it exists.")
def command(context: JobContext, *, overwrite: bool) -> None:
    """Draw training pairs into the table source.table: text, picture, and (picture + change) to picture in turn.

    Products of the train split alone; pairs of one product share their positive_id. The same seed gives the same
    table.
    """
    settings = context.settings
    table = draw_pairs(open_session(settings), settings=settings, overwrite=overwrite)
    click.echo(f"Drew {settings.draw.rows:,} pairs into {table}")


if __name__ == "__main__":
    command()
