"""verify_index: is an index what was committed, and is every vector row in exactly one place?"""

from __future__ import annotations

import functools

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("model", "lake", "metrics", "mlflow", "spark"))
@click.option(
    "--index-id",
    help="Index to verify; default: that of the current release, else the newest of the model.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="Rows whose vectors and codes are compared with `vectors`.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which rows those are.")
def command(context: JobContext, index_id: str | None, sample: int, seed: int) -> Report:
    """Verify an index: manifest, length and sha-256 of every file, structure of every shard, rows, vectors, codes.

    Every row that `vectors` had when the index was built must be in exactly one shard. Where that version can no longer
    be read, the newest takes its place, and that is said. Ends with status 1 where something is wrong, one row a finding:
    shard, file, kind, what was expected and found. Nothing is written; gme-lake repair-index repairs.
    """
    from jobs.reports.finding_table import print_verification
    from jobs.stages.verify.verify import index_to_verify, verify_index

    with context.open_run("verify_index") as run:
        index_id = index_id or index_to_verify(context.lake, context.registry)
        found = verify_index(context.lake, run, index_id=index_id, sample=sample, seed=seed)
    text = functools.partial(print_verification, found)
    return Report(text, found.values() | {"run_id": run.run_id}, status=0 if found.ok else 1)


if __name__ == "__main__":
    command()
