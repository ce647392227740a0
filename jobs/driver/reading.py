"""What executors may read for a row: from the settings, and from where the tables that they name lie."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from jobs.driver.lake import absolute, is_path
from jobs.driver.sql import qualified
from udfs import storage
from udfs.places import local_scheme
from udfs.specs import ReadSpec

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.driver.settings import Settings

# Without encryption anybody on the way decides what is read; clouds hand out credentials over http. So not `http`.
_ALWAYS = ("https", "data")
_FILES = {".parquet", ".json", ".jsonl", ".yaml", ".yml"}


def read_spec(spark: SparkSession, settings: Settings, *places: str | None) -> ReadSpec:
    """How rows' files are read, as the sections `source` and `embed` say.

    Where `source.schemes` is not set, rows may name the kinds of storage that `places` (tables, files, folders) and
    `source.roots` lie in, https and data.
    """
    source = settings.source
    schemes = source.schemes
    if schemes is None:
        found = {s for place in places if place for s in storage_schemes(spark, place)}
        found |= {s for root in source.roots for s in storage_schemes(spark, root, path=True)}
        schemes = [*sorted(found - set(_ALWAYS)), *_ALWAYS]
    return ReadSpec(
        max_bytes=settings.embed.max_image_bytes,
        schemes=tuple(storage.scheme(f"{name}:") for name in schemes),
        roots=tuple(absolute(root) for root in source.roots),
        connect_seconds=source.connect_seconds,
        first_byte_seconds=source.first_byte_seconds,
        file_seconds=source.file_seconds,
        tries=source.tries,
        threads=source.threads,
    )


def storage_schemes(spark: SparkSession, place: str, *, path: bool = False) -> set[str]:
    """Schemes of the storage that a table (by name or path), file or folder lies in.

    A view has none. A table of a catalog has Databricks' volumes too, which the catalog governs.
    """
    if path or is_path(place) or PurePosixPath(place).suffix in _FILES:
        return _schemes_of(absolute(place))
    described = spark.sql(f"DESCRIBE TABLE EXTENDED {qualified(place)}")
    row = described.where("col_name = 'Location'").select("data_type").first()
    return {"dbfs"} | (set() if row is None else _schemes_of(str(row[0])))


def _schemes_of(uri: str) -> set[str]:
    path = storage.local_path(uri)
    if path is None:
        return {storage.scheme(uri)}
    return {"dbfs"} if local_scheme(str(path)) == "dbfs" else {"file", "dbfs"}
