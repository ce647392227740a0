"""draw-pairs: draw training pairs of the product catalogue as a table, to try mine-negatives and train-embedder on."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("draw", "source", "spark"))
@click.option("--overwrite", is_flag=True, help="Replace the table if it exists.")
def command(context: JobContext, *, overwrite: bool) -> Report:
    """Draw training pairs into the table source.table: text, picture, and (picture + change) to picture in turn.

    Products of the train split alone; pairs of one product share their positive_id. The same seed gives the same
    table.
    """
    from jobs.stages.demo.drawn_catalogue import draw_pairs

    settings = context.settings
    table = draw_pairs(context.session, settings=settings, overwrite=overwrite)
    values = {"table": table, "rows": settings.draw.rows, "seed": settings.draw.seed}
    return Report(f"Drew {settings.draw.rows:,} pairs into {table}", values)


if __name__ == "__main__":
    command()
