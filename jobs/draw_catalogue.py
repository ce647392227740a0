"""draw-catalogue: draw a product catalogue with pictures and write it as a Delta table, to try everything else on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.lake import absolute, is_path
from jobs.driver.session import open_session
from jobs.driver.settings import Settings
from udfs.drawing import CATALOGUE_OUTPUT, CatalogueSpec, draw_batches
from udfs.errors import LakeError, SettingsError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@job(sections=("draw", "source", "spark"))
@click.option("--overwrite", is_flag=True, help="Replace the table if it exists.")
def command(context: JobContext, *, overwrite: bool) -> None:
    """Draw an image-text catalogue into the table source.table.

    16 kinds of products in 12 colours and 6 patterns, with titles, descriptions and prices. About 2 % of the rows have no
    picture, 5 % no description, and 1 % a picture that is broken on purpose. The same seed gives the same table.
    """
    settings = context.settings
    table = draw_catalogue(open_session(settings), settings=settings, overwrite=overwrite)
    click.echo(f"Drew {settings.draw.rows:,} products into {table}")


def draw_catalogue(spark: SparkSession, *, settings: Settings, overwrite: bool = False) -> str:
    """Write `draw.rows` products in `draw.files` files with the change data feed on; returns the table's name or path.

    Raises SettingsError without source.table, LakeError where the table exists and `overwrite` is false.
    """
    if not settings.source.table:
        raise SettingsError(
            "source.table is not set: give the table to draw into, a name or a path"
        )
    by_path = is_path(settings.source.table)
    table = absolute(settings.source.table) if by_path else settings.source.table
    if not overwrite and _exists(spark, table, by_path=by_path):
        raise LakeError(f"{table} exists already; --overwrite replaces it")
    draw = settings.draw
    rows = spark.range(0, draw.rows, 1, min(draw.files, draw.rows)).mapInArrow(
        partial(draw_batches, spec=CatalogueSpec(seed=draw.seed)), CATALOGUE_OUTPUT
    )
    writer = rows.write.format("delta").mode("overwrite")
    writer = writer.option("overwriteSchema", "true").option("delta.enableChangeDataFeed", "true")
    if by_path:
        writer.save(table)
    else:
        writer.saveAsTable(table)
    return table


def _exists(spark: SparkSession, table: str, *, by_path: bool) -> bool:
    from delta.tables import DeltaTable

    return DeltaTable.isDeltaTable(spark, table) if by_path else spark.catalog.tableExists(table)


if __name__ == "__main__":
    command()
