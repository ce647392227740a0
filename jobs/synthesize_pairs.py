"""synthesize_pairs: training pairs of text and pictures from a table of passages, by models behind the OpenAI protocol."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(
    sections=(
        "synthesize",
        "source",
        "model",
        "embed",
        "serving",
        "index",
        "lake",
        "mlflow",
        "spark",
    )
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Ask for a sample of the passages, whose answers are kept, and say what all of them would cost.",
)
def command(context: JobContext, dry_run: bool) -> Report:
    """Make training pairs of synthesize.passages and replace synthesize.output with them.

    GME's four steps: a query from each passage, its entity, a picture of that, filters. train-embedder and mine-negatives
    take the table. Each request is asked once: killed anywhere, or over its budget, a run is gone on with by the next.

    \b
    Ends with
      0  done; what could not be made of a passage stands in synthesis_rejects, with its reason
      4  over the budget; what was answered is kept
      6  another run of it is active
      1  another error
    """
    from jobs.stages.synthesize.estimate import estimate_pairs
    from jobs.stages.synthesize.job import needs_embedder, synthesize_pairs

    settings = context.settings
    if dry_run:
        with context.open_run("synthesize_pairs") as run:
            estimate = estimate_pairs(context.lake, run, settings=settings)
        return Report(str(estimate), estimate.values() | {"run_id": run.run_id})
    model = context.registry.resolve() if needs_embedder(settings.synthesize) else None
    with context.open_run("synthesize_pairs") as run:
        report = synthesize_pairs(context.lake, run, model=model, settings=settings)
    return Report(str(report), report.values() | {"run_id": run.run_id})


if __name__ == "__main__":
    command()
