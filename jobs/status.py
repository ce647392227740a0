"""status: what is released, how fresh it is, what was rejected, what the last runs and the last gate said."""

from __future__ import annotations

import functools

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("model", "lake", "mlflow", "spark"), quick=True)
def command(context: JobContext) -> Report:
    """Show the state of the lake to whoever operates it; nothing is written.

    What the next refresh would do says gme-lake refresh-lake --dry-run.
    """
    from jobs.reports.lake_status import print_status, read_status

    status = read_status(context.lake)
    return Report(functools.partial(print_status, status), vars(status))


if __name__ == "__main__":
    command()
