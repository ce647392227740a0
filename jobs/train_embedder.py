"""train_embedder: contrastive training of a GME-style model on pairs, registered as a new version."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.runs import open_run
from jobs.stages.training import train_embedder


@job(sections=("train", "model", "lake", "mlflow", "spark"))
def command(context: JobContext) -> None:
    """Train train.base on train.pairs or the drawn catalogue; write train.output and register it as model.name.

    Killed and run again with the same settings, it goes on from its last checkpoint.
    """
    with open_run(context.lake, context.registry, job="train_embedder") as run:
        report = train_embedder(
            context.lake.spark, run, registry=context.registry, settings=context.settings
        )
    click.echo(report)


if __name__ == "__main__":
    command()
