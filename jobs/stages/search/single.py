"""One query, searched as a table of one row, with title and picture of its hits."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from jobs.driver.task_errors import clear_task_errors
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.reports.hits import QueryResult
from jobs.settings.settings import Settings
from jobs.stages.search.job import open_results
from jobs.stages.search.queries import query_reading
from jobs.stages.search.report import query_results
from jobs.stages.search.target import Target
from udfs.errors import LakeError


@dataclass(frozen=True)
class Query:
    """What a person searches for: text, an encoded picture, or both."""

    text: str | None = None
    image: bytes | None = None
    instruction: str | None = None
    k: int | None = None


def search_one(
    run: Run, query: Query, *, target: Target, model: ResolvedModel, settings: Settings
) -> QueryResult:
    """The query's hits in rank order. Raises LakeError with the reason where it cannot be embedded."""
    lake = run.lake
    schema = "query_id string, text string, image binary, instruction string, k int"
    row = lake.spark.createDataFrame([("query", *astuple(query))], schema)
    queries = row.selectExpr(
        "query_id", "text", "image", "STRING(NULL) AS image_uri", "instruction", "k"
    )
    # Its picture is bytes: no table of queries says where pictures lie.
    reading = query_reading(lake.spark, settings, "", image_base=None)
    spec = settings.embed.spec(model.spec, settings.serving.spec(), reading)
    with (
        open_results(
            run, queries, target=target, model=model, spec=spec, settings=settings.search
        ) as results,
        run.stage("search"),
        clear_task_errors(),
    ):
        hits = results.orderBy("rank").collect()
    refused = next((hit for hit in hits if hit.rank is None and hit.status != "no_rows"), None)
    if refused is not None:
        raise LakeError(f"the query cannot be searched for: {refused.error} ({refused.status})")
    shown = query_results(lake, queries, hits, model_id=target.model_id, reading=reading)
    return shown[0]
