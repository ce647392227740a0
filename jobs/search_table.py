"""search_table: every query of a table gets its nearest rows of the released vectors, by the released index."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("search", "serving", "lake", "metrics", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Search for the queries of search.queries and replace search.output with the results.

    A query is a row with query_id and text, image (bytes, or a path/URI) or both; instruction and k are optional.
    The model of the release embeds it. Results are (query_id, rank, id, vector_id, score, index_id, model_id, status,
    error); a query that cannot be embedded has one row without rank that says why.
    """
    from jobs.stages.search.job import search_table
    from jobs.stages.search.report import report_table
    from jobs.stages.search.target import find_target

    target = find_target(context.lake)
    model, settings = context.registry.find(target.model_id), context.settings
    with context.open_run("search_table") as run:
        report = search_table(context.lake, run, target=target, model=model, settings=settings)
        page = report_table(
            context.lake, run, target=target, output=report.output, settings=settings
        )
        if page is not None:
            context.registry.log_artifact(str(page))
    return Report.of(report, page=page, run_id=run.run_id)


if __name__ == "__main__":
    command()
