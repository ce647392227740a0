"""The lake: the product's Delta tables under one schema, opened, read at pinned versions and appended to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jobs.driver.conflicts import again_on_conflict
from jobs.driver.settings import Settings
from jobs.driver.tables import TABLES, Table
from udfs.errors import LakeError

if TYPE_CHECKING:
    from delta.tables import DeltaTable
    from pyspark.sql import Column, DataFrame, SparkSession
    from pyspark.sql.types import StructType


class Lake:
    """An open lake. Opening creates missing tables and registers existing ones in the session's catalog."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark = spark
        self.settings = settings
        self.schema = settings.lake.schema_
        self.root = absolute(settings.lake.root)
        spark.sql(f"CREATE SCHEMA IF NOT EXISTS {self.schema}")
        # A first commit is seconds of waiting for small files; the tables do not depend on each other.
        with ThreadPoolExecutor(len(TABLES)) as threads:
            list(threads.map(self.open_table, TABLES))

    def name(self, table: str) -> str:
        """Qualified name, e.g. `gme.vectors`."""
        return f"{self.schema}.{table}"

    def folder(self, *parts: str) -> str:
        """A path under the lake's root; the caller creates what it needs."""
        return "/".join((self.root, *parts))

    def read(self, table: str, *, version: int | None = None) -> DataFrame:
        """A lake table, at a pinned version if one is given."""
        return read_table(self.spark, self.name(table), version=version)

    def version(self, table: str) -> int:
        """Newest version of a lake table."""
        return table_version(self.spark, self.name(table))

    def append(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows given as mappings of column to value; columns not named are null."""
        schema = self.row_schema(table)
        tuples = [tuple(row.get(f.name) for f in schema.fields) for row in rows]
        frame = self.spark.createDataFrame(tuples, schema).coalesce(1)
        frame.write.format("delta").mode("append").saveAsTable(self.name(table))

    @again_on_conflict
    def insert_new(self, table: str, row: Mapping[str, Any], *, key: str) -> bool:
        """Append one row unless the table has its key already; returns whether it was inserted.

        One MERGE: unlike an append it conflicts with another run that inserts at the same time, and then looks again.
        """
        schema = self.row_schema(table)
        view = f"gme_new_{table}"
        frame = self.spark.createDataFrame([tuple(row.get(f.name) for f in schema.fields)], schema)
        frame.createOrReplaceTempView(view)
        result = self.spark.sql(
            f"MERGE INTO {self.name(table)} t USING {view} s ON t.{key} = s.{key} "
            "WHEN NOT MATCHED THEN INSERT *"
        ).first()
        self.spark.catalog.dropTempView(view)
        return result is not None and int(result.num_inserted_rows) > 0

    def row_schema(self, table: str) -> StructType:
        """Columns of a lake table without its identity column."""
        from pyspark.sql.types import StructType

        identity = next(t.identity for t in TABLES if t.name == table)
        fields = self._schemas[table].fields
        return StructType([f for f in fields if f.name != identity])

    @cached_property
    def _schemas(self) -> dict[str, StructType]:
        return {table.name: self.spark.table(self.name(table.name)).schema for table in TABLES}

    def open_table(self, table: Table) -> None:
        """Create a table where it is missing, or make one that lies there known to the session."""
        from delta.tables import DeltaTable, IdentityGenerator

        name = self.name(table.name)
        if self.spark.catalog.tableExists(name):
            return
        location = None if self.settings.lake.managed else self.folder("tables", table.name)
        if location and DeltaTable.isDeltaTable(self.spark, location):
            self.spark.sql(f"CREATE TABLE {name} USING delta LOCATION '{location}'")
            return
        builder = DeltaTable.createIfNotExists(self.spark).tableName(name)
        if location:
            builder = builder.location(location)
        if table.identity:
            builder = builder.addColumn(
                table.identity, "BIGINT", generatedAlwaysAs=IdentityGenerator()
            )
        for column, sql_type in table.columns:
            required = sql_type.startswith("!")
            builder = builder.addColumn(column, sql_type.lstrip("!"), nullable=not required)
        if table.partitioned_by:
            builder = builder.partitionedBy(*table.partitioned_by)
        for key, value in table.properties.items():
            builder = builder.property(key, value)
        builder.execute()


def is_path(table: str) -> bool:
    """Whether a table is given as path or URI rather than by name."""
    return "/" in table or "\\" in table


def read_table(spark: SparkSession, table: str, *, version: int | None = None) -> DataFrame:
    """A Delta table by name or path, at a version if one is given."""
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", version)
    return reader.load(table) if is_path(table) else reader.table(table)


def sql_name(table: str) -> str:
    """How SQL names a table given by name or path."""
    return f"delta.`{table}`" if is_path(table) else table


def delta_table(spark: SparkSession, table: str) -> DeltaTable:
    """Handle of a Delta table by name or path. Raises LakeError where there is none."""
    from delta.tables import DeltaTable

    if is_path(table):
        if not DeltaTable.isDeltaTable(spark, table):
            raise LakeError(f"{table} is not a Delta table: no _delta_log found there")
        return DeltaTable.forPath(spark, table)
    if not spark.catalog.tableExists(table):
        raise LakeError(f"table {table} does not exist in this catalog; give its name or path")
    return DeltaTable.forName(spark, table)


def table_version(spark: SparkSession, table: str) -> int:
    """Newest version of a Delta table by name or path. Raises LakeError where there is none."""
    row = delta_table(spark, table).history(1).select("version").first()
    if row is None:
        raise LakeError(f"table {table} has no commits")
    return int(row[0])


def absolute(path: str) -> str:
    """A local path made absolute, so that driver, JVM and executors mean the same folder; URIs unchanged."""
    from pathlib import Path

    return path.rstrip("/") if "://" in path else str(Path(path).expanduser().resolve())


def absolute_uris(uri: Column, *, base: str | None) -> Column:
    """A column of paths and URIs with those that are relative put under the folder `base`; unchanged without one."""
    from pyspark.sql import functions as F

    if not base:
        return uri
    folder = absolute(base).rstrip("/") + "/"
    is_absolute = uri.startswith("/") | uri.contains("://")
    return F.when(is_absolute, uri).otherwise(F.concat(F.lit(folder), uri))


def now() -> datetime:
    """The current time with its time zone, UTC: Spark takes it as the same moment in a session of any time zone."""
    return datetime.now(UTC)
