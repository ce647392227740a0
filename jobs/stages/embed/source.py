"""The source table: checked columns, text template, what the model sees of a row, its stream and its snapshots."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.reading import read_spec
from jobs.lake.lake import (
    Lake,
    absolute_uris,
    is_path,
    read_table,
    table_given,
    table_version,
)
from jobs.lake.sql import identifier, table_sql
from jobs.settings.embed import EmbedSettings, SourceSettings
from jobs.stages.embed.selection import WHOLE, Selection, read_selection
from jobs.stages.embed.source_checks import (
    SourceColumns,
    check_contents,
    check_id,
    check_written,
    image_kind,
    table_properties,
)
from jobs.stages.embed.template import (
    template_columns,
    text_expression,
    timestamp_columns,
)
from udfs.embed.stamp import stamp_images
from udfs.errors import LakeError
from udfs.specs import ReadSpec


@dataclass(frozen=True)
class Source:
    """One image-text Delta table as the job reads it.

    `image_kind` is bytes, uri (a path or URI column), both or none; `selection` says which rows are looked at, `types`
    are those of the columns that become id and text.
    """

    table: str
    settings: SourceSettings
    image_kind: str
    has_cdf: bool
    version: int
    reading: ReadSpec
    selection: Selection = WHOLE
    types: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        lake: Lake,
        settings: SourceSettings,
        *,
        max_image_bytes: int,
        written: EmbedSettings | None = None,
        version: int | None = None,
    ) -> Source:
        """Check the table and its columns; with `written`, by which its vectors will be written, all that this needs too.

        `version` is the newest one where the caller knows it. Raises LakeError with the columns that exist.
        """
        table = source_table(settings)
        version = table_version(lake.spark, table) if version is None else version
        properties = table_properties(lake, table)
        columns = SourceColumns.read(lake, table)
        named = (settings.id, *template_columns(settings.text))
        types = tuple(columns.type_of(column) for column in named)
        kind = image_kind(settings, columns)
        selection = WHOLE
        if written is not None:
            selection = read_selection(written, columns, read_table(lake.spark, table))
            check_id(columns, settings.id)
            check_contents(columns, settings)
            check_written(columns, written, settings, properties)
        has_cdf = properties.get("delta.enableChangeDataFeed", "false").lower() == "true"
        reading = read_spec(
            lake.spark,
            settings,
            table,
            max_bytes=max_image_bytes,
            folders=[settings.image_base],
        )
        return cls(table, settings, kind, has_cdf, version, reading, selection, types)

    @property
    def has_files(self) -> bool:
        """Whether pictures lie in files that may change behind the table."""
        return self.image_kind in {"uri", "both"}

    def is_rescanned(self, embed: EmbedSettings) -> bool:
        """Whether a run looks at every row whatever earlier runs prove."""
        return embed.rescan or (self.settings.recheck_files and self.has_files)

    @property
    def columns_key(self) -> str:
        """Names the column mapping: another mapping is another stream over the same table."""
        s = self.settings
        # A value of another type is written in other words, and no change tells of a type that was widened.
        names = [s.id, s.text, *self.types, s.image or "", s.image_base or "", self.image_kind]
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
        """(id, rows, inside, rank): each id at a version, as string, null left out, and how many rows have it.

        An id is inside the selection's predicate where one of its rows is; its rank is that of the first of them.
        """
        rows = self.read(spark, version=version).select(
            self.id_column().alias("id"),
            self.selection.inside().alias("inside"),
            self.selection.rank().alias("rank"),
        )
        return (
            rows.where("id IS NOT NULL")
            .groupBy("id")
            .agg(
                F.count(F.lit(1)).alias("rows"),
                F.max("inside").alias("inside"),
                self.selection.first_of("rank").alias("rank"),
            )
        )

    def changes(self, spark: SparkSession, *, start: int, end: int) -> DataFrame:
        """The change feed of versions `start` to `end`, both included; reading it raises where it is not all there."""
        reader = spark.read.format("delta").option("readChangeFeed", "true")
        reader = reader.option("startingVersion", start).option("endingVersion", end)
        return (
            reader.load(self.table) if is_path(self.table) else reader.table(table_sql(self.table))
        )

    def stream(
        self, spark: SparkSession, *, files: int, size: str, start: int | None = None
    ) -> DataFrame:
        """Rows to look at, as a stream: the change feed from version `start` on, or the newest snapshot.

        Where the table has a change feed, its commits since a snapshot that is still being read follow; else only rows
        that were added follow.
        """
        reader = (
            spark.readStream.format("delta")
            .option("maxFilesPerTrigger", files)
            .option("maxBytesPerTrigger", size)
        )
        if self.has_cdf:
            reader = reader.option("readChangeFeed", "true")
        else:
            reader = reader.option("skipChangeCommits", "true")
        if start is not None:
            reader = reader.option("startingVersion", start)
        return (
            reader.load(self.table) if is_path(self.table) else reader.table(table_sql(self.table))
        )

    def rows(self, frame: DataFrame) -> DataFrame:
        """What the model sees: id, text, and image (bytes) or image_uri; at least one of these is null."""
        kind, settings = self.image_kind, self.settings
        has_bytes, has_uri = kind in {"bytes", "both"}, kind in {"uri", "both"}
        image = F.col(identifier(settings.image or "")) if has_bytes else F.lit(None).cast("binary")
        uri = F.lit(None).cast("string")
        if has_uri:
            column = settings.image_uri if kind == "both" else settings.image
            uri = absolute_uris(F.col(identifier(column or "")), base=self.settings.image_base)
        return frame.select(
            self.id_column().alias("id"),
            text_expression(settings.text, timestamps=timestamp_columns(frame)).alias("text"),
            image.alias("image"),
            (F.when(image.isNull(), uri) if has_bytes else uri).alias("image_uri"),
            *[c for c in ("_change_type", "_commit_version") if c in frame.columns],
        )

    def add_row_hash(self, rows: DataFrame) -> DataFrame:
        """Rows with `row_hash`: over text and image bytes, or over text and path where images are files."""
        digest = F.sha2(F.col("image"), 256)
        kinds = {"uri": F.col("image_uri"), "both": F.coalesce(digest, "image_uri")}
        image = kinds.get(self.image_kind, digest)
        return rows.withColumn("row_hash", row_hash(image))

    def contents(self, rows: DataFrame) -> DataFrame:
        """The narrow pass: (id, row_hash, content_hash, commit_version), no image bytes kept.

        For image files the content hash also covers size and mtime/etag, looked up without reading them.
        """
        version = (
            F.col("_commit_version") if "_commit_version" in rows.columns else F.lit(0)
        ).cast("bigint")
        hashed = self.add_row_hash(rows).withColumn("commit_version", version)
        columns = ["id", "row_hash", "commit_version"]
        if not self.has_files:
            return hashed.select(*columns, F.col("row_hash").alias("content_hash"))
        named = hashed.select(*columns, "image_uri")
        stamped = on_executors(named, stamp_images, spec=self.reading).frame
        both = F.concat_ws("|", "row_hash", F.coalesce("image_stamp", F.lit("-")))
        return stamped.select(*columns, F.sha2(both, 256).alias("content_hash"))

    def id_column(self) -> Column:
        """The row id as string."""
        return F.col(identifier(self.settings.id)).cast("string")


def source_table(settings: SourceSettings) -> str:
    """Name or path of the source table. Raises LakeError where none is set."""
    if not settings.table:
        raise LakeError("source.table is not set: give the name or path of the table to embed")
    return table_given(settings.table)


def row_hash(image: Column) -> Column:
    """sha-256 over a row's text and its image's digest (or path), null and empty told apart."""
    text = F.coalesce(F.sha2(F.col("text"), 256), F.lit("-"))
    return F.sha2(F.concat_ws("|", text, F.coalesce(image, F.lit("-"))), 256)
