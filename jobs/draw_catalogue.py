"""draw-catalogue: draw a product catalogue with pictures and write it as a Delta table, to try everything else on."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("draw", "source", "spark"))
@click.option("--overwrite", is_flag=True, help="Replace the table if it exists.")
def command(context: JobContext, *, overwrite: bool) -> Report:
    """Draw an image-text catalogue into the table source.table.

    16 kinds of products in 12 colours and 6 patterns, with titles, descriptions and prices. About 2 % of the rows have no
    picture, 5 % no description, and 1 % a picture that is broken on purpose. The same seed gives the same table.
    """
    from jobs.stages.demo.drawn_catalogue import draw_catalogue

    settings = context.settings
    table = draw_catalogue(context.session, settings=settings, overwrite=overwrite)
    values = {"table": table, "rows": settings.draw.rows, "seed": settings.draw.seed}
    return Report(f"Drew {settings.draw.rows:,} products into {table}", values)


if __name__ == "__main__":
    command()
