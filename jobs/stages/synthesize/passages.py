"""The passages: read at a pinned version, checked, and staged without their pictures, which never go through a shuffle."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake, absolute_uris, table_given, table_version
from jobs.lake.runs import Run
from jobs.lake.sql import identifier
from jobs.settings.synthesize import SynthesizeSettings
from jobs.stages.embed.template import template_columns, text_expression, timestamp_columns
from jobs.stages.train.pair_files import read_pairs
from udfs.errors import LakeError, SettingsError
from udfs.synthesis.picture_files import PICTURE_FILES, PicturesSpec, write_picture_batches


@dataclass(frozen=True)
class PictureRows:
    """Rows with pictures, as a table has them: `rows` (id, image, image_uri, …), either of the last two null."""

    rows: DataFrame
    table: str

    def files(self, wanted: DataFrame, *, folder: str, staging: str) -> DataFrame:
        """(id, image_uri, error) of the ids in `wanted`: a row's own path, or that of a file written of its bytes."""
        some = self.rows.join(F.broadcast(wanted.select("id").distinct()), "id", "left_semi")
        named = some.where("image_uri IS NOT NULL AND image IS NULL").select(
            "id", "image_uri", F.lit(None).cast("string").alias("error")
        )
        held = some.where("image IS NOT NULL").select("id", "image")
        spec = PicturesSpec(folder)
        written = on_executors(held, write_picture_batches, spec=spec).write(staging)
        return named.unionByName(written).select(*PICTURE_FILES.names)


@dataclass(frozen=True)
class Passages:
    """`narrow`: passage_id, title, text, domain, has_picture, and the columns that name products, once in files."""

    narrow: DataFrame
    pictures: PictureRows


def read_passages(lake: Lake, run: Run, settings: SynthesizeSettings, *, staging: str) -> Passages:
    """The passages of `synthesize.passages`. Raises SettingsError or LakeError for what cannot be used."""
    if not settings.passages:
        raise SettingsError("synthesize.passages is not set: give the table of passages")
    frame = _open(lake, run, settings.passages)
    own = [settings.id, settings.title, settings.domain, settings.image, settings.siblings]
    _require_columns(
        frame,
        [*own, *template_columns(settings.text), *settings.attributes],
        table=settings.passages,
    )
    none = F.lit(None).cast("string")
    image, uri = _picture_columns(frame, settings.image, base=settings.image_base)
    rows = frame.select(
        F.col(identifier(settings.id)).cast("string").alias("id"),
        (_text(settings.title) if settings.title else none).alias("title"),
        text_expression(settings.text, timestamps=timestamp_columns(frame)).alias("text"),
        (F.lower(_text(settings.domain)) if settings.domain else none).alias("domain"),
        image.alias("image"),
        uri.alias("image_uri"),
        F.array(*(_text(name) for name in settings.attributes))
        .cast("array<string>")
        .alias("attributes"),
        (_text(settings.siblings) if settings.siblings else none).alias("siblings"),
    )
    narrow = rows.select(
        F.col("id").alias("passage_id"),
        *("title", "text", "domain", "attributes", "siblings"),
        (F.col("image").isNotNull() | F.col("image_uri").isNotNull()).alias("has_picture"),
    )
    with clear_task_errors():
        narrow.write.mode("overwrite").parquet(f"{staging}/passages")
    staged = lake.spark.read.parquet(f"{staging}/passages")
    _require_ids(staged, settings)
    return Passages(staged, PictureRows(rows, settings.passages))


def read_pictures(lake: Lake, run: Run, settings: SynthesizeSettings) -> PictureRows:
    """The pictures of `synthesize.pictures`: id, caption, image, image_uri."""
    if not settings.pictures:
        raise SettingsError(
            "synthesize.picture=retrieve needs synthesize.pictures, the table to find pictures in"
        )
    frame = _open(lake, run, settings.pictures)
    own = [settings.pictures_id, settings.pictures_image, settings.pictures_caption]
    _require_columns(frame, own, table=settings.pictures)
    if settings.match == "caption" and not settings.pictures_caption:
        raise SettingsError("synthesize.match=caption needs synthesize.pictures_caption")
    image, uri = _picture_columns(frame, settings.pictures_image, base=settings.image_base)
    caption = _text(settings.pictures_caption) if settings.pictures_caption else F.lit(None)
    rows = frame.select(
        F.col(identifier(settings.pictures_id)).cast("string").alias("id"),
        caption.cast("string").alias("caption"),
        image.alias("image"),
        uri.alias("image_uri"),
    )
    return PictureRows(rows.where("image IS NOT NULL OR image_uri IS NOT NULL"), settings.pictures)


def _open(lake: Lake, run: Run, name: str) -> DataFrame:
    table = table_given(name)
    if table.endswith(".parquet"):
        return read_pairs(lake.spark, table)
    version = table_version(lake.spark, table)
    if run.source_table is None:
        run.source_table, run.source_version = table, version
    else:
        run.inputs.append((table, version, "pictures"))
    return read_pairs(lake.spark, table, version=version)


def _require_columns(frame: DataFrame, names: list[str], *, table: str) -> None:
    have = {name.lower() for name in frame.columns}
    missing = sorted({name for name in names if name and name.lower() not in have})
    if missing:
        raise LakeError(f"{table} has no column {', '.join(missing)}; it has {frame.columns}")


def _picture_columns(frame: DataFrame, name: str, *, base: str) -> tuple[Column, Column]:
    """(bytes, path or URI): the one that the column's type does not hold is null."""
    no_bytes, no_uri = F.lit(None).cast("binary"), F.lit(None).cast("string")
    if not name:
        return no_bytes, no_uri
    column = F.col(identifier(name))
    kind = {field.name.lower(): field.dataType.simpleString() for field in frame.schema.fields}
    if kind[name.lower()] == "binary":
        return column, no_uri
    return no_bytes, absolute_uris(column.cast("string"), base=base or None)


def _text(name: str) -> Column:
    return F.col(identifier(name)).cast("string")


def _require_ids(passages: DataFrame, settings: SynthesizeSettings) -> None:
    row = passages.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_if(F.col("passage_id").isNull()).alias("without"),
        F.count_distinct("passage_id").alias("distinct"),
    ).first()
    if row is None or not row.rows:
        raise LakeError(f"{settings.passages} has no rows: nothing to make pairs of")
    if row.without or row.distinct < row.rows:
        raise LakeError(
            f"{settings.passages}: {row.without:,} rows without {settings.id}, {row.rows - row.without - row.distinct:,} "
            "with one that another row has; every passage needs an id of its own"
        )
