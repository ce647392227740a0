"""ablate_training: strategies of training compared on the same held-out queries, as one table and plot."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("ablate", "train", "model", "evaluate", "lake", "metrics", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Train every strategy of ablate.strategies with every seed and print the table of their scores.

    What section train says is the first strategy; the others change it. Run again, it goes on where it was stopped.
    """
    from jobs.stages.train.ablate import ablate_training

    with context.open_run("ablate_training") as run:
        report = ablate_training(
            context.lake, run, registry=context.registry, settings=context.settings
        )
    return Report(str(report), report.values() | {"run_id": run.run_id})


if __name__ == "__main__":
    command()
