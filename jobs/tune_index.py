"""tune_index: find, build and commit an index that reaches a recall target in the time and bytes given."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("tune", "recall", "index", "model", "serving", "lake", "metrics", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Tune an index of the model's vectors, at the newest version of `vectors`, to the target of section tune.

    Tries indexes from the rule's default on, and chooses nprobe and k_factor by one half of the queries of section
    recall: the fastest point whose recall reaches the target for every query kind by a one-sided 95 % bound. The
    other half reports. The index is committed with its operating points; searches ask for them by search.recall.
    Where the target cannot be met, it says so and what comes nearest, commits nothing, and ends with status 1.
    """
    from jobs.stages.tune.job import tune_index

    model = context.registry.resolve()
    with context.open_run("tune_index") as run:
        report = tune_index(context.lake, run, model=model, settings=context.settings)
    status = 0 if report.met else 1
    return Report(str(report), report.values() | {"run_id": run.run_id}, status=status)


if __name__ == "__main__":
    command()
