"""Views `<source>_with_vectors`: every row of a source table, the released model's vector beside it or null."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

from pyspark.sql import functions as F

from jobs.driver.task_errors import is_broken_off
from jobs.lake.lake import Lake, cause, delta_table
from jobs.lake.sql import identifier, is_path, literal, name_parts, table_sql

log = logging.getLogger("gme_lake")

_WITH_VECTORS = "_with_vectors"


@dataclass(frozen=True)
class SourceRuns:
    """The successful runs of one model over one source table: settings of the last one (JSON), first and last start
    in seconds since the epoch.
    """

    table: str
    model_id: str
    settings: str
    first: float
    last: float


@dataclass(frozen=True)
class SourceView:
    """A view to make: of which source, and the models whose vectors of that source the lake holds."""

    name: str
    table: str
    settings: str
    models: tuple[str, ...]


def publish_source_views(lake: Lake) -> list[str]:
    """Make the views of all sources that the lake holds vectors of; returns their names.

    Never raises for a source: one that is gone, was changed or cannot be read has no view, and a warning says why.
    """
    try:
        views = plan_views(source_runs(lake))
    except Exception as error:  # whatever the lake's past holds, it opens
        if is_broken_off(error):
            raise
        log.warning("no views of vectors beside their sources: %s", cause(error))
        return []
    return [lake.name(view.name) for view in views if _publish(lake, view)]


def refresh_source_views(lake: Lake, run: SourceRuns) -> None:
    """Make the view of a source that a run has just embedded; sources whose place it took lose theirs.

    The vectors are in the lake already: where no view can be made, a warning says why.
    """
    try:
        runs = [*source_runs(lake), run]
        views = plan_views(runs)
        for name in former_names(runs, kept={view.name for view in views}, model_id=run.model_id):
            lake.spark.sql(f"DROP VIEW IF EXISTS {lake.name(name)}")
    except Exception as error:
        if is_broken_off(error):
            raise
        log.warning("no view of vectors beside %s: %s", run.table, cause(error))
        return
    for view in views:
        if view.table == run.table and _publish(lake, view) and view.name != short_name(view.table):
            log.info(
                "view %s: %s is of another source of this lake",
                lake.name(view.name),
                lake.name(short_name(view.table)),
            )


def source_runs(lake: Lake) -> list[SourceRuns]:
    """The successful runs of embed_table in this lake, by source table and model."""
    events = lake.read("run_events").where("job = 'embed_table' AND status = 'succeeded'")
    events = events.where("source_table IS NOT NULL AND model_id IS NOT NULL")
    events = events.withColumn("source_table", lake.resolve_column("source_table"))
    started = F.col("started_at").cast("double")
    found = events.groupBy("source_table", "model_id").agg(
        F.max_by("settings", "started_at").alias("settings"),
        F.min(started).alias("first"),
        F.max(started).alias("last"),
    )
    return [SourceRuns(*row) for row in found.collect()]


def plan_views(runs: Iterable[SourceRuns]) -> list[SourceView]:
    """One view for every source that is the last one of some model, those embedded first first.

    Of two sources with the same last part of name or path the first keeps the short name; the other one's has a few
    characters of a hash in it.
    """
    by_table: dict[str, list[SourceRuns]] = {}
    for found in runs:
        by_table.setdefault(found.table, []).append(found)
    live = _last_by_model(found for group in by_table.values() for found in group)
    views: list[SourceView] = []
    for table in sorted(by_table, key=lambda t: (min(r.first for r in by_table[t]), t)):
        models = tuple(sorted(m for m, found in live.items() if found.table == table))
        if models:
            taken = {view.name for view in views}
            name = long_name(table) if short_name(table) in taken else short_name(table)
            newest = max(by_table[table], key=lambda found: found.last)
            views.append(SourceView(name, table, newest.settings, models))
    return views


def former_names(runs: Iterable[SourceRuns], *, kept: set[str], model_id: str) -> list[str]:
    """Names that views had of sources whose vectors of the model are no longer in the lake, but those in `kept`."""
    runs = list(runs)
    held = {found.table for found in _last_by_model(runs).values()}
    gone = {found.table for found in runs if found.model_id == model_id} - held
    names = {name for table in gone for name in (short_name(table), long_name(table))}
    return sorted(names - kept)


def short_name(table: str) -> str:
    """`<last part of the source's name or path>_with_vectors`, in the letters that Spark's own catalog takes."""
    last = table.rstrip("/").rsplit("/", 1)[-1] if is_path(table) else name_parts(table)[-1]
    return re.sub(r"[^A-Za-z0-9_]", "_", last) + _WITH_VECTORS


def long_name(table: str) -> str:
    """The short name with a few characters of a hash of the whole name or path."""
    mark = hashlib.sha256(table.encode()).hexdigest()[:6]
    return f"{short_name(table).removesuffix(_WITH_VECTORS)}_{mark}{_WITH_VECTORS}"


def view_statement(lake: Lake, view: SourceView) -> str:
    """CREATE VIEW. Ids keep their type.

    A vector stands beside a row only where one of the view's models made it: the released model may have embedded
    another table with the same ids.
    """
    settings = json.loads(view.settings)
    row_id = identifier("s", settings["source"]["id"])
    vector = identifier(settings["embed"]["vector_column"])
    model = identifier(settings["embed"]["model_column"])
    models = ", ".join(literal(model_id) for model_id in view.models)
    comment = (
        f"One row for each row of {view.table}, with its vector of the released model or null."
    )
    return (
        f"CREATE OR REPLACE VIEW {lake.name(view.name)} COMMENT {literal(comment)} AS "
        f"SELECT s.*, v.vector_id, v.embedding AS {vector}, v.model_id AS {model} FROM {table_sql(view.table)} s "
        f"LEFT JOIN {lake.name('current_vectors')} v "
        f"ON CAST({row_id} AS STRING) = v.id AND v.model_id IN ({models})"
    )


def _publish(lake: Lake, view: SourceView) -> bool:
    """Whether the view was made: not where it is not asked for, nor where Spark cannot make it."""
    try:
        if json.loads(view.settings)["embed"]["write_back"] != "view":
            return False
        # A folder that is gone is said so, and not as Spark says it.
        delta_table(lake.spark, view.table)
        lake.spark.sql(view_statement(lake, view))
    except Exception as error:  # gone, changed, unreadable: Spark has a word for each
        if is_broken_off(error):
            raise
        log.warning("no view of vectors beside %s: %s", view.table, cause(error))
        return False
    return True


def _last_by_model(runs: Iterable[SourceRuns]) -> dict[str, SourceRuns]:
    """Each model's last runs: a lake holds a model's vectors of one source."""
    return {found.model_id: found for found in sorted(runs, key=lambda found: found.last)}
