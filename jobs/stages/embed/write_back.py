"""Vectors beside the user's rows: a view that joins them, or two columns merged into the source table."""

from __future__ import annotations

from jobs.lake.lake import read_table
from jobs.lake.source_views import SourceRuns, refresh_source_views
from jobs.lake.sql import identifier, literal, table_sql
from jobs.lake.sql_catalog import is_published
from jobs.stages.embed.work import Embedding


def write_back(job: Embedding) -> None:
    """Do what `embed.write_back` says: view, columns or none. Without a view the run goes on, with a warning.

    A catalog that forgets its views with the session, and in which nobody has opened the lake for SQL, gets none.
    """
    kind = job.settings.write_back
    if kind == "view" and is_published(job.lake):
        time = job.run.started_at.timestamp()
        run = SourceRuns(job.source.table, job.model_id, job.run.settings, time, time)
        refresh_source_views(job.lake, run)
    elif kind == "columns":
        job.run.counts["written_back"] = _merge_columns(job)


def _merge_columns(job: Embedding) -> int:
    """MERGE vector and model_id into the source; rows whose vector is already right are not touched.

    The commit changes no text or image, so the next run finds the same content and embeds nothing.
    """
    spark, embed = job.lake.spark, job.settings
    table, row_id = table_sql(job.source.table), identifier("s", job.source.settings.id)
    vector, model = identifier("s", embed.vector_column), identifier("s", embed.model_column)
    _add_columns(job)
    result = spark.sql(
        f"""
        MERGE INTO {table} s
        USING (SELECT id, embedding, IF(status = 'ok', model_id, NULL) AS model_id
               FROM {job.lake.name("vectors")} WHERE model_id = {literal(job.model_id)}) v
        ON CAST({row_id} AS STRING) = v.id
        WHEN MATCHED AND NOT ({vector} <=> v.embedding AND {model} <=> v.model_id)
        THEN UPDATE SET {vector} = v.embedding, {model} = v.model_id
        """
    ).first()
    return int(result.num_updated_rows) if result else 0


def _add_columns(job: Embedding) -> None:
    """Add the two columns where they are not there yet; that they can be was checked when the source was opened."""
    embed = job.settings
    have = {name.lower() for name in read_table(job.lake.spark, job.source.table).columns}
    vector, model = identifier(embed.vector_column), identifier(embed.model_column)
    missing = []
    if embed.vector_column.lower() not in have:
        missing.append(f"{vector} ARRAY<FLOAT>")
    if embed.model_column.lower() not in have:
        missing.append(f"{model} STRING")
    if missing:
        table, columns = table_sql(job.source.table), ", ".join(missing)
        job.lake.spark.sql(f"ALTER TABLE {table} ADD COLUMNS ({columns})")
