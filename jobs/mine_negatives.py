"""mine_negatives: hard negatives for training pairs, found by the registered model in an index of their positives."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(
    sections=("mine", "evaluate", "model", "serving", "index", "lake", "metrics", "mlflow", "spark")
)
def command(context: JobContext) -> Report:
    """Find hard negatives for mine.pairs and mine.tasks with the model, and replace mine.output with the pairs.

    The second stage of GME's recipe: train-embedder takes the table as train.pairs. Every pair is kept; one whose
    query or positive cannot be embedded has no negatives. Of a task file only evaluate.data and evaluate.only count.
    """
    from jobs.stages.mine.job import mine_negatives

    model = context.registry.resolve()
    with context.open_run("mine_negatives") as run:
        report = mine_negatives(context.lake, run, model=model, settings=context.settings)
    return Report.of(report, run_id=run.run_id)


if __name__ == "__main__":
    command()
