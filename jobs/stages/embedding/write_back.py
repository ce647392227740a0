"""Vectors beside the user's rows: a view that joins them, or two columns merged into the source table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.driver.catalog import create_source_view
from jobs.driver.lake import read_table, sql_name
from udfs.errors import LakeError

if TYPE_CHECKING:
    from jobs.driver.settings import EmbedSettings
    from jobs.stages.embedding.work import Embedding


def write_back(job: Embedding) -> None:
    """Do what `embed.write_back` says: view, columns or none."""
    kind = job.lake.settings.embed.write_back
    if kind == "view":
        embed = job.lake.settings.embed
        create_source_view(
            job.lake,
            job.source.table,
            row_id=job.source.settings.id,
            vector_column=embed.vector_column,
            model_column=embed.model_column,
        )
    elif kind == "columns":
        job.run.counts["written_back"] = _merge_columns(job)


def _merge_columns(job: Embedding) -> int:
    """MERGE vector and model_id into the source; rows whose vector is already right are not touched.

    The commit changes no text or image, so the next run finds the same content and embeds nothing.
    """
    spark, embed = job.lake.spark, job.lake.settings.embed
    table = sql_name(job.source.table)
    _add_columns(job, embed)
    result = spark.sql(
        f"""
        MERGE INTO {table} s
        USING (SELECT id, embedding, IF(status = 'ok', model_id, NULL) AS model_id
               FROM {job.lake.name("vectors")} WHERE model_id = '{job.model_id}') v
        ON CAST(s.`{job.source.settings.id}` AS STRING) = v.id
        WHEN MATCHED AND NOT (s.{embed.vector_column} <=> v.embedding AND s.{embed.model_column} <=> v.model_id)
        THEN UPDATE SET s.{embed.vector_column} = v.embedding, s.{embed.model_column} = v.model_id
        """
    ).first()
    return int(result.num_updated_rows) if result else 0


def _add_columns(job: Embedding, embed: EmbedSettings) -> None:
    have = dict(read_table(job.lake.spark, job.source.table).dtypes)
    wanted = {embed.vector_column: "array<float>", embed.model_column: "string"}
    for column, kind in wanted.items():
        if column in have and have[column] != kind:
            raise LakeError(
                f"column {column} of {job.source.table} is {have[column]}, vectors need {kind}: set "
                "embed.vector_column and embed.model_column to other names"
            )
    missing = [f"{c} {kind}" for c, kind in wanted.items() if c not in have]
    if missing:
        job.lake.spark.sql(
            f"ALTER TABLE {sql_name(job.source.table)} ADD COLUMNS ({', '.join(missing)})"
        )
