"""The source table behind the vectors: which of its rows a search may return, and which belong together."""

from __future__ import annotations

from dataclasses import replace

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import TaskRows, on_executors
from jobs.lake.lake import Lake, cause
from jobs.lake.runs import Run
from jobs.lake.sql import identifier
from jobs.settings.search import SearchSettings
from jobs.stages.embed.last_source import require_source
from jobs.stages.embed.source import Source
from jobs.stages.index.vectors import indexed_vectors
from udfs.errors import LakeError
from udfs.index.manifest import publish_bytes
from udfs.search.row_files import write_groups, write_vector_ids
from udfs.specs import IndexSpec, SearchSpec


def restrict(
    run: Run, spec: SearchSpec, settings: SearchSettings, *, index: IndexSpec, staging: str
) -> SearchSpec:
    """`spec` with what `search.filter` and `search.group_by` ask for, as files in the staging folder.

    Both are evaluated over the newest version of the source table; `index` names the model and the version of
    `vectors`. Raises LakeError where the source is unknown, or they do not fit its columns.
    """
    if settings.filter is None and settings.group_by is None:
        return spec
    lake = run.lake
    source = require_source(
        lake, model_id=index.model_id, asking="search.filter and search.group_by are"
    )
    run.inputs.append((source.table, source.version, "source"))
    vectors = indexed_vectors(lake, index).select("vector_id", "id")
    if settings.filter is not None:
        path = f"{staging}/allowed.int64"
        rows = vectors.join(_matching(lake, source, settings.filter), "id", "left_semi")
        rows = rows.select("vector_id").repartition(1)
        written = on_executors(rows, write_vector_ids, path=path)
        run.counts["match_filter"] = _rows_written(written, path=path)
        spec = replace(spec, allowed=path)
    if settings.group_by is not None:
        path = f"{staging}/groups"
        values = group_values(lake, source, settings.group_by, setting="search.group_by")
        run.counts["in_groups"] = write_group_file(vectors.join(values, "id"), path=path)
        spec = replace(spec, groups=path, max_per=settings.max_per)
    return spec


def _matching(lake: Lake, source: Source, predicate: str) -> DataFrame:
    """Ids of the rows that the predicate holds for."""
    table = source.read(lake.spark, version=source.version)
    try:
        return table.where(F.expr(predicate)).select(source.id_column().alias("id"))
    except AnalysisException as error:
        raise LakeError(
            f"search.filter={predicate!r} is no condition on {source.table}: {cause(error)}. Its columns are "
            f"{', '.join(table.columns)}"
        ) from None


def group_values(lake: Lake, source: Source, column: str, *, setting: str) -> DataFrame:
    """(id, value) of the column that a setting names, as a string: one row an id, also where the source has it twice.

    Raises LakeError where there is no such column, or none of plain values.
    """
    table = source.read(lake.spark, version=source.version)
    kinds = dict(table.dtypes)
    if column not in kinds or kinds[column].startswith(("array", "map", "struct", "binary")):
        found = f"it is {kinds[column]}" if column in kinds else f"it has {', '.join(kinds)}"
        raise LakeError(
            f"{setting}={column} must be a column of plain values in {source.table}; {found}"
        )
    value = F.col(identifier(column)).cast("string")
    return table.groupBy(source.id_column().alias("id")).agg(F.min(value).alias("value"))


def write_group_file(rows: DataFrame, *, path: str) -> int:
    """Let a task write the groups of rows (vector_id, value) for searches; how many rows are in one."""
    placed = rows.select("vector_id", "value").repartition(1)
    return _rows_written(on_executors(placed, write_groups, path=path), path=path)


def _rows_written(written: TaskRows, *, path: str) -> int:
    made = written.rows()
    if not made:  # no task runs where there are no rows
        publish_bytes(b"", *path.rsplit("/", 1))
    return sum(int(row.rows) for row in made)
