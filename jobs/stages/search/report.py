"""Results for people: hits with text and picture from the source table, and the HTML page of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.task_errors import is_broken_off
from jobs.lake.lake import Lake, cause, read_table
from jobs.lake.runs import Run
from jobs.reports.hits import Hit, QueryResult, write_search_report
from jobs.reports.previews import Preview, previews
from jobs.settings.settings import Settings
from jobs.stages.embed.last_source import find_source
from jobs.stages.search.queries import query_reading, read_queries
from jobs.stages.search.target import Target
from udfs.specs import ReadSpec

log = logging.getLogger("gme_lake")

QUERIES_SHOWN = 50
HITS_SHOWN = 10


def report_table(
    lake: Lake, run: Run, *, target: Target, output: str, settings: Settings
) -> Path | None:
    """Write the page `search.report` over the first queries of the results; None where it is not set."""
    search = settings.search
    if not search.report:
        return None
    every = read_queries(lake.spark, search.queries, image_base=search.image_base)
    queries = every.orderBy("query_id").limit(QUERIES_SHOWN)
    reading = query_reading(lake.spark, settings, search.queries, image_base=search.image_base)
    found = read_table(lake.spark, output).join(queries.select("query_id"), "query_id")
    shown = found.where(f"rank IS NULL OR rank <= {HITS_SHOWN}").orderBy("query_id", "rank")
    hits = shown.collect()
    results = query_results(lake, queries, hits, model_id=target.model_id, reading=reading)
    return write_page(search.report, results, target=target, run=run)


def query_results(
    lake: Lake, queries: DataFrame, hits: Sequence[Any], *, model_id: str, reading: ReadSpec
) -> list[QueryResult]:
    """Queries (columns QUERIES) with their collected result rows, in order of query_id.

    Pictures are made small in tasks, those of the queries read by `reading`; only rows that are hits are read from the
    source table. Where it cannot be read, hits have no text and no picture.
    """
    asked = previews(queries.withColumnRenamed("query_id", "id"), reading=reading)
    ids = {row.id for row in hits if row.rank}
    found = source_previews(lake, ids, model_id=model_id, max_image_bytes=reading.max_bytes)
    results = []
    for query_id in sorted({row.query_id for row in hits}):
        mine = [row for row in hits if row.query_id == query_id]
        text, image = asked[query_id]
        said = next((row for row in mine if row.status != "ok"), None)
        note = "" if said is None else f"{said.status}: {said.error}"
        if said is not None and said.rank is None and said.status != "no_rows":
            note = f"not searched, {note}"
        shown = " · ".join(part for part in (text, note) if part) or None
        ranked = sorted((row for row in mine if row.rank), key=lambda row: row.rank)
        results.append(QueryResult(query_id, shown, image, [_hit(row, found) for row in ranked]))
    return results


def write_page(path: str | Path, results: list[QueryResult], *, target: Target, run: Run) -> Path:
    """The self-contained page of the results, with the facts of the run."""
    plan, model = target.manifest.spec.plan, run.model
    facts = {
        "model": f"{model.name} version {model.version}\n{target.model_id}"
        if model
        else target.model_id,
        "index": f"{target.index_id}\n{plan.factory}, {len(target.manifest.all_shards(''))} shard(s)",
        "rows in index": f"{target.manifest.rows:,}",
        "release": str(target.release.release_id),
    }
    facts |= {name.replace("_", " "): f"{count:,}" for name, count in run.counts.items()}
    facts |= {f"seconds to {name}": f"{seconds:.1f}" for name, seconds in run.seconds.items()}
    return write_search_report(path, title="Search results", queries=results, facts=facts)


def _hit(row: Any, found: dict[str, Preview]) -> Hit:
    text, image = found.get(row.id, (None, None))
    return Hit(row.rank, row.id, row.score, text, image)


def source_previews(
    lake: Lake, ids: set[str], *, model_id: str, max_image_bytes: int
) -> dict[str, Preview]:
    """Text and small picture by id from the source table that the model's vectors were made from, as far as it is known.

    A page is worth having without them: where the table is gone or was changed, a warning says so.
    """
    if not ids:
        return {}
    try:
        source = find_source(lake, model_id=model_id, max_image_bytes=max_image_bytes)
        if source is None:
            return {}
        wanted = lake.spark.createDataFrame([(row_id,) for row_id in sorted(ids)], "id string")
        rows = source.rows(source.read(lake.spark, version=source.version))
        return previews(rows.join(F.broadcast(wanted), "id"), reading=source.reading)
    except Exception as error:  # gone, changed, not readable: Spark has a word for each
        if is_broken_off(error):
            raise
        log.warning("rows are shown without their texts and pictures: %s", cause(error))
        return {}
