"""find_duplicates: which rows of the release are nearly the same, as pairs and as clusters."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("duplicates", "lake", "metrics", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Find near duplicates among the vectors of the current release and replace duplicates.pairs and .clusters.

    A pair (id_a, id_b, score) is two rows of which one is among the duplicates.k nearest of the other and whose cosine
    is at least duplicates.threshold, or exact copies of a content, each paired with the copy of the smallest id.
    With duplicates.group_by both are of rows that may be a pair: with the same value of that column of the source, or
    with different ones (duplicates.group_pairs).
    A cluster (cluster_id, id, size) is all rows that pairs connect, named by its smallest id. The released index is
    asked in the tasks that read the vectors: no vector is shuffled, and no model is loaded.
    """
    from jobs.stages.duplicates.job import find_duplicates
    from jobs.stages.search.target import find_target

    target = find_target(context.lake)
    with context.open_run("find_duplicates") as run:
        report = find_duplicates(context.lake, run, target=target, settings=context.settings)
        if report.page is not None:
            context.registry.log_artifact(str(report.page))
    return Report.of(report, run_id=run.run_id)


if __name__ == "__main__":
    command()
