"""The source table: checked columns, text template, what the model sees of a row, its stream and its snapshots."""

from __future__ import annotations

import difflib
import functools
import hashlib
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING

from jobs.driver.lake import (
    Lake,
    absolute,
    absolute_uris,
    delta_table,
    is_path,
    read_table,
    table_version,
)
from jobs.driver.reading import read_spec
from udfs.errors import LakeError
from udfs.specs import ReadSpec
from udfs.stamp import STAMP_OUTPUT, stamp_images

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

    from jobs.driver.settings import Settings, SourceSettings


@dataclass(frozen=True)
class Source:
    """One image-text Delta table as the job reads it.

    `image_kind` is bytes, uri (a path or URI column), both or none.
    """

    table: str
    settings: SourceSettings
    image_kind: str
    has_cdf: bool
    version: int
    reading: ReadSpec

    @classmethod
    def open(cls, lake: Lake, *, settings: SourceSettings | None = None) -> Source:
        """Check the table (default: of the lake's settings) and its columns.

        Raises LakeError with the columns that exist.
        """
        settings = settings or lake.settings.source
        if not settings.table:
            raise LakeError("source.table is not set: give the name or path of the table to embed")
        table = absolute(settings.table) if is_path(settings.table) else settings.table
        version = table_version(lake.spark, table)
        schema = dict(read_table(lake.spark, table).dtypes)
        for column in {settings.id, *template_columns(settings.text)}:
            _require(column, schema, table)
        return cls(
            table,
            settings,
            _image_kind(settings, schema, table),
            _has_cdf(lake, table),
            version,
            read_spec(
                lake.spark, _with(lake.settings, settings), table, folders=[settings.image_base]
            ),
        )

    @property
    def has_files(self) -> bool:
        """Whether pictures lie in files that may change behind the table."""
        return self.image_kind in {"uri", "both"}

    @property
    def columns_key(self) -> str:
        """Names the column mapping: another mapping is another stream over the same table."""
        s = self.settings
        names = [s.id, s.text, s.image or "", s.image_base or "", self.image_kind]
        if s.image_uri:
            names.append(s.image_uri)
        if self.has_files and (s.schemes is not None or s.roots):
            # Other limits: rows that were refused under the old ones must be looked at again.
            names.append(f"schemes={s.schemes} roots={s.roots}")
        mapping = "\x1f".join(names)
        return hashlib.sha256(mapping.encode()).hexdigest()[:12]

    def read(self, spark: SparkSession, *, version: int) -> DataFrame:
        """The whole table at a version."""
        return read_table(spark, self.table, version=version)

    def ids(self, spark: SparkSession, *, version: int) -> DataFrame:
        """The id column alone (as string, name `id`), null ids left out."""
        frame = self.read(spark, version=version)
        return frame.select(self.id_column().alias("id")).where("id IS NOT NULL")

    def stream(
        self, spark: SparkSession, *, files: int, size: str, changes: bool = True
    ) -> DataFrame:
        """Rows to look at, as a stream: the change feed where the table has one, else its newest snapshot.

        `changes=False` streams the snapshot whatever the table has.
        """
        reader = (
            spark.readStream.format("delta")
            .option("maxFilesPerTrigger", files)
            .option("maxBytesPerTrigger", size)
        )
        if self.has_cdf and changes:
            reader = reader.option("readChangeFeed", "true")
        else:
            # Commits that arrive meanwhile belong to the next run, which streams the new snapshot.
            reader = reader.option("skipChangeCommits", "true")
        return reader.load(self.table) if is_path(self.table) else reader.table(self.table)

    def rows(self, frame: DataFrame) -> DataFrame:
        """What the model sees: id, text, and image (bytes) or image_uri; at least one of these is null."""
        from pyspark.sql import functions as F

        kind, settings = self.image_kind, self.settings
        has_bytes, has_uri = kind in {"bytes", "both"}, kind in {"uri", "both"}
        image = F.col(settings.image or "") if has_bytes else F.lit(None).cast("binary")
        uri = F.lit(None).cast("string")
        if has_uri:
            column = settings.image_uri if kind == "both" else settings.image
            uri = absolute_uris(F.col(column or ""), base=self.settings.image_base)
        return frame.select(
            self.id_column().alias("id"),
            text_expression(settings.text).alias("text"),
            image.alias("image"),
            (F.when(image.isNull(), uri) if has_bytes else uri).alias("image_uri"),
            *[c for c in ("_change_type", "_commit_version") if c in frame.columns],
        )

    def hashed(self, rows: DataFrame) -> DataFrame:
        """Rows with `row_hash`: over text and image bytes, or over text and path where images are files."""
        from pyspark.sql import functions as F

        digest = F.sha2(F.col("image"), 256)
        kinds = {"uri": F.col("image_uri"), "both": F.coalesce(digest, "image_uri")}
        image = kinds.get(self.image_kind, digest)
        return rows.withColumn("row_hash", row_hash(image))

    def contents(self, rows: DataFrame) -> DataFrame:
        """The narrow pass: (id, row_hash, content_hash, commit_version), no image bytes kept.

        For image files the content hash also covers size and mtime/etag, looked up without reading them.
        """
        from pyspark.sql import functions as F

        version = (
            F.col("_commit_version") if "_commit_version" in rows.columns else F.lit(0)
        ).cast("bigint")
        hashed = self.hashed(rows).withColumn("commit_version", version)
        columns = ["id", "row_hash", "commit_version"]
        if not self.has_files:
            return hashed.select(*columns, F.col("row_hash").alias("content_hash"))
        stamp = functools.partial(stamp_images, spec=self.reading)
        stamped = hashed.select(*columns, "image_uri").mapInArrow(stamp, STAMP_OUTPUT)
        both = F.concat_ws("|", "row_hash", F.coalesce("image_stamp", F.lit("-")))
        return stamped.select(*columns, F.sha2(both, 256).alias("content_hash"))

    def id_column(self) -> Column:
        """The row id as string."""
        from pyspark.sql import functions as F

        return F.col(self.settings.id).cast("string")


def template_columns(template: str) -> list[str]:
    """Columns a text template names, in order. Raises LakeError where it is not a valid template."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise LakeError(
            f"source.text={template!r}: not a template ({error}); write {{column}}"
        ) from None
    for _, name, spec, conversion in parts:
        if name is not None and (not name or spec or conversion):
            raise LakeError(f"source.text={template!r}: expected plain {{column}} fields only")
    return [name for _, name, _, _ in parts if name]


def text_expression(template: str) -> Column:
    """The template as a SQL expression: nulls are empty, ends are trimmed, nothing left is null."""
    from pyspark.sql import functions as F

    parts: list[Column] = []
    for literal, name, _, _ in Formatter().parse(template):
        if literal:
            parts.append(F.lit(literal))
        if name:
            parts.append(F.coalesce(F.col(name).cast("string"), F.lit("")))
    if not parts:
        return F.lit(None).cast("string")
    named = [F.col(name).isNotNull() for name in template_columns(template)]
    some = named[0] if named else F.lit(True)
    for present in named[1:]:
        some = some | present
    trimmed = F.trim(F.concat(*parts))
    return F.when(some & (trimmed != ""), trimmed)


def row_hash(image: Column) -> Column:
    """sha-256 over a row's text and its image's digest (or path), null and empty told apart."""
    from pyspark.sql import functions as F

    text = F.coalesce(F.sha2(F.col("text"), 256), F.lit("-"))
    return F.sha2(F.concat_ws("|", text, F.coalesce(image, F.lit("-"))), 256)


def _with(settings: Settings, source: SourceSettings) -> Settings:
    return settings.model_copy(update={"source": source})


def _require(column: str, schema: dict[str, str], table: str) -> None:
    if column in schema:
        return
    close = difflib.get_close_matches(column, list(schema), n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise LakeError(f"column {column} is not in {table}{hint} It has: {', '.join(schema)}")


def _image_kind(settings: SourceSettings, schema: dict[str, str], table: str) -> str:
    column = settings.image
    if settings.image_uri is not None:
        _require(settings.image_uri, schema, table)
        both = {c: schema.get(c or "") for c in (column, settings.image_uri)}
        if list(both.values()) != ["binary", "string"]:
            raise LakeError(
                f"source.image_uri={settings.image_uri} stands beside an image column of bytes: expected binary and "
                f"string, {table} has {both}"
            )
        return "both"
    if column is None:
        return "none"
    _require(column, schema, table)
    kinds = {"binary": "bytes", "string": "uri"}
    if schema[column] not in kinds:
        raise LakeError(
            f"column {column} of {table} is {schema[column]}: expected binary (image bytes) or string (path/URI)"
        )
    return kinds[schema[column]]


def _has_cdf(lake: Lake, table: str) -> bool:
    row = delta_table(lake.spark, table).detail().select("properties").first()
    properties = (row[0] if row else None) or {}
    return str(properties.get("delta.enableChangeDataFeed", "false")).lower() == "true"
