"""A drawn product catalogue as a Delta table, to try everything else on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from jobs.driver.lake import absolute, is_path
from jobs.driver.settings import Settings
from udfs.drawing import CATALOGUE_OUTPUT, CatalogueSpec, draw_batches
from udfs.errors import LakeError, SettingsError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


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
