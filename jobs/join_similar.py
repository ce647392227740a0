"""join_similar: each row of a table of vectors gets its nearest rows of another table of vectors."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("join", "lake", "metrics", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Find for each row of join.left its join.k most similar rows of join.right and replace join.output with them.

    Both are tables with a column of vectors, of one model and of any length: the score is their cosine. Results are
    (left_id, rank, right_id, score, status, error); a row of left whose vector cannot be used, or that finds nothing,
    has one row without rank that says why. By default every pair is compared; no model and no release is needed.
    """
    from jobs.stages.join.job import join_similar

    with context.open_run("join_similar") as run:
        report = join_similar(context.lake, run, settings=context.settings.join)
    return Report.of(report, run_id=run.run_id)


if __name__ == "__main__":
    command()
