"""evaluate_retrieval: how well a registered model finds what retrieval tasks ask for."""

from __future__ import annotations

import functools

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("evaluate", "model", "index", "serving", "lake", "metrics", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Evaluate the model on the tasks of evaluate.tasks; print, record and (evaluate.report) show the figures.

    Documents are embedded once per model and kept for the same set of tasks. Figures have 95 % intervals and stand
    beside chance and the floors of evaluate.floors. evaluate.against compares with another evaluation query by query,
    evaluate.index with rankings through an index.
    """
    from jobs.stages.evaluate.job import evaluate_retrieval
    from jobs.stages.evaluate.page.terminal import print_evaluation

    model = context.registry.resolve()
    with context.open_run("evaluate_retrieval") as run:
        report = evaluate_retrieval(context.lake, run, model=model, settings=context.settings)
        if report.page is not None:
            context.registry.log_artifact(str(report.page))
    return Report(functools.partial(print_evaluation, report), report.values())


if __name__ == "__main__":
    command()
