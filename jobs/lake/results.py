"""Tables of results that a user names: checked before the work, replaced after it."""

from __future__ import annotations

from collections.abc import Iterable

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from jobs.lake.lake import is_path, read_table, table_given
from jobs.lake.sql import table_sql
from udfs.errors import LakeError


def replaceable(spark: SparkSession, table: str, *, setting: str, columns: Iterable[str]) -> str:
    """The table of results that a setting names, as it is written.

    Raises LakeError where the setting is empty, or the table holds something else than `columns`: it is not replaced.
    """
    if not table:
        raise LakeError(f"{setting} is not set: give the Delta table (name or path) for results")
    output = table_given(table)
    exists = (
        DeltaTable.isDeltaTable(spark, output)
        if is_path(output)
        else spark.catalog.tableExists(table_sql(output))
    )
    if exists:
        missing = set(columns) - set(read_table(spark, output).columns)
        if missing:
            raise LakeError(
                f"{setting}={output} exists and is no table of results (it has no column "
                f"{', '.join(sorted(missing))}); it was not replaced: give another name"
            )
    return output


def replace_table(rows: DataFrame, output: str) -> None:
    """Write rows in place of a table of results."""
    writer = rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
    writer.save(output) if is_path(output) else writer.saveAsTable(table_sql(output))
