"""A drawn product catalogue as a Delta table, to try everything else on."""

from __future__ import annotations

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import is_path, table_given
from jobs.lake.sql import table_sql
from jobs.settings.settings import Settings
from udfs.drawing import CatalogueSpec, draw_batches
from udfs.drawing.training_pairs import DrawnPairsSpec, draw_pair_batches
from udfs.errors import LakeError, SettingsError


def draw_catalogue(spark: SparkSession, *, settings: Settings, overwrite: bool = False) -> str:
    """Write `draw.rows` products in `draw.files` files with the change data feed on; returns the table's name or path.

    Raises SettingsError without source.table, LakeError where the table exists and `overwrite` is false.
    """
    table = _new_table(spark, settings, overwrite=overwrite)
    spec = CatalogueSpec(seed=settings.draw.seed)
    return _written(on_executors(_numbers(spark, settings), draw_batches, spec=spec).frame, table)


def draw_pairs(spark: SparkSession, *, settings: Settings, overwrite: bool = False) -> str:
    """Write `draw.rows` training pairs of the drawn catalogue's train split; else as `draw_catalogue`."""
    table = _new_table(spark, settings, overwrite=overwrite)
    spec = DrawnPairsSpec(seed=settings.draw.seed)
    rows = on_executors(_numbers(spark, settings), draw_pair_batches, spec=spec)
    return _written(rows.frame, table)


def _numbers(spark: SparkSession, settings: Settings) -> DataFrame:
    draw = settings.draw
    return spark.range(0, draw.rows, 1, min(draw.files, draw.rows))


def _new_table(spark: SparkSession, settings: Settings, *, overwrite: bool) -> str:
    """Name or absolute path of `source.table`, where nothing may stand that is not to be replaced."""
    if not settings.source.table:
        raise SettingsError(
            "source.table is not set: give the table to draw into, a name or a path"
        )
    table = table_given(settings.source.table)
    if not overwrite and _exists(spark, table):
        raise LakeError(f"{table} exists already; --overwrite replaces it")
    return table


def _written(rows: DataFrame, table: str) -> str:
    writer = rows.write.format("delta").mode("overwrite")
    writer = writer.option("overwriteSchema", "true").option("delta.enableChangeDataFeed", "true")
    writer.save(table) if is_path(table) else writer.saveAsTable(table_sql(table))
    return table


def _exists(spark: SparkSession, table: str) -> bool:
    if is_path(table):
        return bool(DeltaTable.isDeltaTable(spark, table))
    return spark.catalog.tableExists(table_sql(table))
