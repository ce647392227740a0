"""train_embedder: contrastive training of a GME-style model on pairs, registered as a new version."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("train", "model", "lake", "metrics", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Train train.base on train.pairs or the drawn catalogue; write train.output and register it as model.name.

    Killed and run again with the same settings, it goes on from its last checkpoint.
    """
    from jobs.stages.train.job import train_embedder

    with context.open_run("train_embedder") as run:
        report = train_embedder(
            context.lake.spark, run, registry=context.registry, settings=context.settings
        )
    values = {
        "model": run.model,
        "counts": run.counts,
        "seconds": run.seconds,
        "run_id": run.run_id,
    }
    return Report(report, values)


if __name__ == "__main__":
    command()
