"""The page of the largest clusters, with texts and pictures of their rows from the source table."""

from __future__ import annotations

from pathlib import Path

from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.reports.hits import Hit
from jobs.reports.html_page import write_html
from jobs.settings.settings import Settings
from jobs.stages.duplicates.clusters import Clusters
from jobs.stages.search.report import source_previews
from jobs.stages.search.target import Target
from udfs.strings import python_values

CLUSTERS_SHOWN = 50
ROWS_SHOWN = 12


def write_page(
    lake: Lake, run: Run, clusters: Clusters, *, target: Target, settings: Settings
) -> Path:
    """Write `duplicates.report`; returns its path. Where the source cannot be read, rows have no text and no picture."""
    duplicates = settings.duplicates
    largest = clusters.largest(CLUSTERS_SHOWN)
    names = [python_values(clusters.ids.take(rows[:ROWS_SHOWN])) for rows in largest]
    found = source_previews(
        lake,
        {name for shown in names for name in shown},
        model_id=target.model_id,
        max_image_bytes=settings.embed.max_image_bytes,
    )
    sections = []
    for rows, shown in zip(largest, names, strict=True):
        hits = [
            Hit(rank, name, float(clusters.best[row]), *found.get(name, (None, None)))
            for rank, (row, name) in enumerate(zip(rows[:ROWS_SHOWN], shown, strict=True), 1)
        ]
        sections.append((len(rows), hits))
    facts = {
        "model": target.model_id,
        "index": target.index_id,
        "release": str(target.release.release_id),
        "lowest cosine": str(duplicates.threshold),
        "neighbours per row": str(duplicates.k),
    }
    if duplicates.group_by is not None:
        facts["paired"] = f"{duplicates.group_pairs} {duplicates.group_by}"
    facts |= {name.replace("_", " "): f"{count:,}" for name, count in run.counts.items()}
    facts |= {f"seconds to {name}": f"{seconds:.1f}" for name, seconds in run.seconds.items()}
    note = None
    if too_large := run.counts["clusters_too_large"]:
        note = (
            f"{too_large:,} of the clusters have more than {duplicates.max_cluster:,} rows: chains, whose ends need not be "
            "alike. Raise duplicates.threshold to part them."
        )
    values = {
        "title": "Near duplicates",
        "clusters": sections,
        "of": clusters.count,
        "facts": facts,
        "note": note,
    }
    return write_html(duplicates.report or "", template="duplicates_report.html", values=values)
