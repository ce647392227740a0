"""search: one query from the command line, its hits as a table, and as an HTML page if one is asked for."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report
from udfs.specs import MAX_K


@job(sections=("search", "serving", "lake", "mlflow", "spark"))
@click.option("--text", help="Text of the query.")
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Picture of the query; with --text both are one query.",
)
@click.option(
    "--instruction", help="Task instruction, such as: Find an image that matches the text."
)
@click.option("-k", "k", type=click.IntRange(1, MAX_K), help="Results; default: search.k.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Page to write.")
def command(
    context: JobContext,
    text: str | None,
    image: Path | None,
    instruction: str | None,
    k: int | None,
    html: Path | None,
) -> Report:
    """Search the released vectors for a text, a picture, or both.

    Runs as search-table does, for one query, and writes to no table.
    """
    from jobs.lake.runs import Run
    from jobs.reports.hits import print_hits
    from jobs.stages.search.report import write_page
    from jobs.stages.search.single import Query, search_one
    from jobs.stages.search.target import find_target

    if text is None and image is None:
        raise click.UsageError("nothing to search for: give --text, --image, or both")
    query = Query(text, image.read_bytes() if image else None, instruction, k)
    target = find_target(context.lake)
    model = context.registry.find(target.model_id)
    run = Run(context.lake, "search", context.settings.to_json())
    result = search_one(run, query, target=target, model=model, settings=context.settings)
    page = None if html is None else write_page(html, [result], target=target, run=run)
    release = target.release
    hits = [
        {"rank": hit.rank, "score": hit.score, "id": hit.id, "title": hit.title}
        for hit in result.hits
    ]
    values = {"query": result.text, "hits": hits, "page": page, **vars(release)}
    return Report(functools.partial(print_hits, [result], page=page), values)


if __name__ == "__main__":
    command()
