"""repair_index: what is damaged of an index is made again, the rest stays as it is."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("model", "lake", "metrics", "mlflow", "spark"))
@click.option(
    "--index-id",
    help="Index to repair; default: that of the current release, else the newest of the model.",
)
def command(context: JobContext, index_id: str | None) -> Report:
    """Repair an index: what gme-lake verify-index finds damaged is made again from the tables, and nothing else.

    Damaged shards are built again by the index's own quantizer from the version of `vectors` that it was built from. Ends
    with status 1 where the index is not whole afterwards; what cannot be made again is refused, with the reason, and has
    to be built again with gme-lake build-index.
    """
    from jobs.stages.verify.repair import repair_index
    from jobs.stages.verify.verify import index_to_verify

    with context.open_run("repair_index") as run:
        index_id = index_id or index_to_verify(context.lake, context.registry)
        repaired = repair_index(context.lake, run, index_id=index_id)
    return Report(
        str(repaired), repaired.values() | {"run_id": run.run_id}, status=0 if repaired.ok else 1
    )


if __name__ == "__main__":
    command()
