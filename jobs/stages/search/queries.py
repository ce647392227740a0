"""Queries: read from a table or file, checked, and given the columns that everything after works with."""

from __future__ import annotations

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.driver.reading import read_spec
from jobs.lake.lake import absolute, absolute_uris, read_table, table_given, table_version
from jobs.settings.settings import Settings
from udfs.errors import LakeError
from udfs.specs import ReadSpec

QUERIES = "query_id string, text string, image binary, image_uri string, instruction string, k int"
_KINDS = {
    "query_id": {"string", "int", "bigint", "smallint", "tinyint"},
    "text": {"string"},
    "image": {"binary", "string"},
    "image_uri": {"string"},
    "image_path": {"string"},
    "instruction": {"string"},
    "k": {"int", "bigint", "smallint", "tinyint"},
}
_FILES = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}


def read_queries(spark: SparkSession, table: str, *, image_base: str | None) -> DataFrame:
    """The queries of a table or file with the columns QUERIES, a Delta table pinned at its newest version.

    Relative paths of pictures start from `image_base`. Raises LakeError where the table is missing, a column is missing
    or of another type, or query_id is null or repeated.
    """
    if not table:
        raise LakeError(
            "search.queries is not set: give a Delta table (name or path), or .parquet/.jsonl"
        )
    queries = normalise_queries(read_raw(spark, table), table, image_base=image_base)
    _require_query_ids(queries, table)
    return queries


def query_reading(
    spark: SparkSession, settings: Settings, table: str, *, image_base: str | None
) -> ReadSpec:
    """How the pictures of a table's queries are read."""
    largest = settings.embed.max_image_bytes
    return read_spec(spark, settings.source, table, max_bytes=largest, folders=[image_base])


def normalise_queries(frame: DataFrame, table: str, *, image_base: str | None) -> DataFrame:
    """Any table with the columns of a query as QUERIES; an `image` of strings is a path or URI."""
    have = dict(frame.dtypes)
    _check_columns(have, table)
    uris = [c for c in ("image_uri", "image_path", "image") if have.get(c) == "string"]
    uri = F.coalesce(*(F.col(c) for c in uris)) if uris else F.lit(None).cast("string")
    uri = absolute_uris(uri, base=image_base)
    columns = {name: F.col(name) for name in have if name in _KINDS} | {"image_uri": uri}
    if have.get("image") == "string":
        del columns["image"]
    wanted = (column.split() for column in QUERIES.split(", "))
    return frame.select(
        *(columns.get(name, F.lit(None)).cast(kind).alias(name) for name, kind in wanted)
    )


def read_raw(spark: SparkSession, queries: str, *, setting: str = "search.queries") -> DataFrame:
    """The table or file that a setting names, with all its columns. Raises LakeError."""
    suffix = next((s for s in _FILES if queries.lower().endswith(s)), None)
    if suffix is None:
        table = table_given(queries)
        return read_table(spark, table, version=table_version(spark, table))
    try:
        return spark.read.format(_FILES[suffix]).load(absolute(queries))
    except AnalysisException as error:
        raise LakeError(
            f"{setting}={queries} cannot be read: {error.getMessage() or error}"
        ) from None


def _check_columns(have: dict[str, str], queries: str) -> None:
    shown = ", ".join(f"{name} {kind}" for name, kind in have.items())
    where = queries or "the query"
    if "query_id" not in have:
        raise LakeError(f"{where} has no column query_id; it has: {shown}")
    if not {"text", "image", "image_uri", "image_path"} & set(have):
        raise LakeError(
            f"{where} has nothing to search for: it needs a column text, image (bytes, or a path/URI) or "
            f"image_uri; it has: {shown}"
        )
    for name, kinds in _KINDS.items():
        # A column of nulls alone has no type in JSON and in literals.
        if name in have and have[name] not in kinds | {"void"}:
            raise LakeError(
                f"column {name} of {where} is {have[name]}: expected {' or '.join(sorted(kinds))}"
            )


def _require_query_ids(queries: DataFrame, where: str) -> None:
    rows = queries.groupBy("query_id").agg(F.count(F.lit(1)).alias("rows"))
    bad = rows.where("query_id IS NULL OR rows > 1").orderBy("query_id").head(5)
    if bad:
        shown = ", ".join(f"{row.query_id!r} ({row.rows} rows)" for row in bad)
        raise LakeError(
            f"query_id of {where} must name each query once, and not be null; found {shown}"
        )
