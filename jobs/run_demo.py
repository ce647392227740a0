"""run_demo: the whole product in a few minutes, on a drawn catalogue in a folder of its own."""

from __future__ import annotations

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("lake", "source", "draw", "model", "embed", "index", "search", "spark"))
def command(context: JobContext) -> Report:
    """Draw a catalogue, embed it, index it, search it, change it and embed it again.

    Run it with --config demo.yaml (make demo does). Prints what happened and where the HTML page is.
    """
    from jobs.stages.demo.job import Demo, run_demo

    demo = Demo(context.lake, context.registry, context.settings, say=click.echo)
    page = run_demo(demo)
    return Report(f"\nLook at {page}", {"page": page})


if __name__ == "__main__":
    command()
