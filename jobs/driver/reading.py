"""What executors may read for a row: from the settings, and from where the tables that they name lie."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from pyspark.sql import SparkSession

from jobs.lake.lake import absolute, is_path
from jobs.lake.sql import table_sql
from jobs.settings.embed import SourceSettings
from udfs import storage
from udfs.files.places import local_scheme
from udfs.specs import ReadSpec

# Without encryption anybody on the way decides what is read; clouds hand out credentials over http. So not `http`.
_ALWAYS = ("https", "data")
_FILES = {".parquet", ".json", ".jsonl", ".yaml", ".yml"}


def read_spec(
    spark: SparkSession,
    source: SourceSettings,
    *tables: str | None,
    max_bytes: int,
    folders: Iterable[str | None] = (),
) -> ReadSpec:
    """How rows' files are read, as section `source` says, pictures of `max_bytes` (`embed.max_image_bytes`) at most.

    Where `source.schemes` is not set, rows may name the kinds of storage that `tables` (by name or path),
    `folders` and `source.roots` lie in, https and data.
    """
    schemes = source.schemes
    if schemes is None:
        found = {s for table in tables if table for s in storage_schemes(spark, table)}
        found |= {s for f in (*folders, *source.roots) if f for s in _schemes_of(absolute(f))}
        schemes = [*sorted(found - set(_ALWAYS)), *_ALWAYS]
    return ReadSpec(
        max_bytes=max_bytes,
        schemes=tuple(storage.scheme(f"{name}:") for name in schemes),
        roots=tuple(absolute(root) for root in source.roots),
        connect_seconds=source.connect_seconds,
        first_byte_seconds=source.first_byte_seconds,
        file_seconds=source.file_seconds,
        tries=source.tries,
        threads=source.threads,
    )


def storage_schemes(spark: SparkSession, table: str) -> set[str]:
    """Schemes of the storage that a table or file of rows lies in.

    A view and a table that does not exist (whoever reads it will say so) have none. A table of a catalog has
    Databricks' volumes too, which the catalog governs.
    """
    if is_path(table) or PurePosixPath(table).suffix in _FILES:
        return _schemes_of(absolute(table))
    if not spark.catalog.tableExists(table_sql(table)):
        return set()
    described = spark.sql(f"DESCRIBE TABLE EXTENDED {table_sql(table)}")
    row = described.where("col_name = 'Location'").select("data_type").first()
    return {"dbfs"} | (set() if row is None else _schemes_of(str(row[0])))


def _schemes_of(uri: str) -> set[str]:
    path = storage.local_path(uri)
    if path is None:
        return {storage.scheme(uri)}
    return {"dbfs"} if local_scheme(str(path)) == "dbfs" else {"file", "dbfs"}
