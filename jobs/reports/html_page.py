"""HTML pages of reports: one self-contained file each, from the templates beside this module."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import jinja2

from jobs.lake.lake import now
from jobs.reports.thumbnails import thumbnail


def write_html(path: str | Path, *, template: str, values: Mapping[str, object]) -> Path:
    """Fill a template and write it; returns the path.

    Beside `values` a template has `thumbnail` (an encoded picture to what the page shows of it) and `written`. All
    text is escaped. Parent folders are created and an existing file is replaced; OSError where that is not possible.
    """
    target = Path(path)
    html = (
        templates()
        .get_template(template)
        .render(
            values,
            # The same product answers many queries: decode each picture once.
            thumbnail=functools.cache(thumbnail),
            written=f"{now():%Y-%m-%d %H:%M} UTC",
        )
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    # Lone surrogates come out of damaged JSON; a character reference shows them as a replacement mark.
    target.write_text(html, "utf-8", errors="xmlcharrefreplace")
    return target


@functools.cache
def templates() -> jinja2.Environment:
    """The pages of jobs/reports/templates."""
    # PackageLoader reads through the import system: from the checkout, a wheel, and a --py-files zip.
    return jinja2.Environment(
        loader=jinja2.PackageLoader("jobs.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
