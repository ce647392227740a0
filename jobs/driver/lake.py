"""The lake: the product's Delta tables under one schema, opened, read at pinned versions and appended to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from jobs.driver.conflicts import again_on_conflict
from jobs.driver.settings import Settings
from jobs.driver.sql import identifier
from jobs.driver.tables import TABLES, Table
from udfs import storage
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

    def relative(self, path: str) -> str:
        """How tables name a path: `./…` from the lake's root where it lies there, so that a lake can be moved and copied."""
        within = path.removeprefix(self.root)
        return f".{within}" if within != path and within.startswith("/") else path

    def resolve(self, path: str) -> str:
        """The path that a table names. What lies outside the lake, and what old lakes name absolutely, is as it stands."""
        return self.root + path[1:] if path.startswith("./") else path

    def resolved(self, column: str) -> Column:
        """A column of paths as tables name them, each as `resolve` gives it."""
        from pyspark.sql import functions as F

        named = F.col(column)
        within = F.concat(F.lit(self.root), F.expr(f"substring({identifier(column)}, 2)"))
        return F.when(named.startswith("./"), within).otherwise(named)

    def holds(self, path: str) -> bool:
        """Whether a path lies under the lake's root, by where its links and `..` lead; nothing else may be deleted."""
        local, root = storage.local_path(path), storage.local_path(self.root)
        if (local is None) != (root is None):
            return False
        if local is not None and root is not None:
            inner, outer = local.resolve(), root.resolve()
            return inner != outer and inner.is_relative_to(outer)
        return path.startswith(f"{self.root}/") and ".." not in path.split("/")

    def read(self, table: str, *, version: int | None = None) -> DataFrame:
        """A lake table, at a pinned version if one is given."""
        return read_table(self.spark, self.name(table), version=version)

    def version(self, table: str) -> int:
        """Newest version of a lake table."""
        return table_version(self.spark, self.name(table))

    def append(
        self,
        table: str,
        rows: Iterable[Mapping[str, Any]],
        *,
        txn: tuple[str, int] | None = None,
    ) -> None:
        """Append rows given as mappings of column to value; columns not named are null.

        A table that an earlier version made gets the columns that it lacks. With `txn`, an application id and a number
        that grows, Delta appends nothing where a commit of that id has the number already, and raises a conflict
        (`is_conflict`) where one is made at the same moment: who finds its rows in the table was the first.
        """
        schema = self.row_schema(table)
        tuples = [tuple(row.get(f.name) for f in schema.fields) for row in rows]
        frame = self.spark.createDataFrame(tuples, schema).coalesce(1)
        writer = frame.write.format("delta").mode("append").option("mergeSchema", "true")
        if txn is not None:
            writer = writer.option("txnAppId", txn[0]).option("txnVersion", txn[1])
        writer.saveAsTable(self.name(table))

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

        columns = next(t.columns for t in TABLES if t.name == table)
        fields = [
            f"`{name}` {kind.lstrip('!')}{' NOT NULL' if kind.startswith('!') else ''}"
            for name, kind in columns
        ]
        return cast(StructType, StructType.fromDDL(", ".join(fields)))

    def open_table(self, table: Table) -> None:
        """Create a table where it is missing, or make one that lies there known to the session.

        Raises LakeError where the schema has the table of another lake: a copy must not read or write its original.
        """
        from delta.tables import DeltaTable, IdentityGenerator

        name = self.name(table.name)
        location = None if self.settings.lake.managed else self.folder("tables", table.name)
        if self.spark.catalog.tableExists(name) and self._is_ours(name, location):
            return
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

    def _is_ours(self, name: str, location: str | None) -> bool:
        """Whether a name of the catalog is the table of this lake. One whose folder is gone is forgotten: lakes are moved.

        Dropping it takes the name alone: tables at a location of their own keep their files.
        """
        if location is None:
            return True
        described = self.spark.sql(f"DESCRIBE TABLE EXTENDED {name}").where("col_name = 'Location'")
        found = described.select("data_type").first()
        if found is None or _same_place(found[0], location):
            return True
        if storage.exists(storage.join(found[0], "_delta_log")):
            raise LakeError(
                f"{name} is the table in {found[0]}, not the one of this lake in {location}: another lake is known "
                "under this schema. Give this one a schema of its own (lake.schema), or drop the schema's tables from "
                "the catalog (those in the folder of a lake keep their files)"
            )
        self.spark.sql(f"DROP TABLE {name}")
        return False


def _same_place(one: str, other: str) -> bool:
    """Whether two paths or URIs name one folder; local ones by where their links lead."""
    paths = storage.local_path(one), storage.local_path(other)
    if paths[0] is not None and paths[1] is not None:
        return paths[0].resolve() == paths[1].resolve()
    return one.rstrip("/") == other.rstrip("/")


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
    """The current time, UTC, without timezone as Spark takes it in a UTC session."""
    return datetime.now(UTC)
