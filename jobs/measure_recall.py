"""measure_recall: how much of what exact search finds an index finds, and in what time."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("recall", "model", "serving", "lake", "metrics", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Measure an index against exact search over the version of `vectors` it was built from.

    Queries come from recall.queries (columns as of search.queries, embedded by the index's model), or are rows of the
    index, each left out of its own results. Held-out rows were in the training of the quantizer, and are like the
    rows they look for: recall of real queries, of texts above all, is lower. Exact results are kept for each version,
    query set, model and k. Times are of single searches on one core, files in memory.
    """
    from jobs.stages.recall.job import index_to_measure, measure_recall

    settings = context.settings
    named = settings.recall.index
    spec, model = index_to_measure(context.lake, context.registry, index_id=named)
    with context.open_run("measure_recall") as run:
        report = measure_recall(context.lake, run, spec=spec, model=model, settings=settings)
        for file in report.files:
            context.registry.log_artifact(str(file))
    return Report(
        "\n".join([str(report), *(f"report: {file}" for file in report.files)]),
        report.values() | {"run_id": run.run_id},
    )


if __name__ == "__main__":
    command()
