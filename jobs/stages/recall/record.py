"""Measurements kept: rows of `recalls`, metrics of the run, an HTML page and the plot of recall against time."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from jobs.lake.lake import now
from jobs.lake.runs import Run
from jobs.reports.html_page import write_html
from jobs.stages.recall.plot import recall_plot
from jobs.stages.recall.queries import AskedQueries
from jobs.stages.recall.summary import PointFigures
from udfs.errors import SettingsError
from udfs.index.points import Point
from udfs.specs import IndexSpec


def append_recalls(
    run: Run,
    measured: Sequence[PointFigures],
    *,
    spec: IndexSpec,
    asked: AskedQueries,
    part: Literal["all", "unseen"],
) -> None:
    """Append to `recalls`; `part`: all queries of the set, or those that a choice has not seen."""
    refined = spec.plan.refine != "none"
    shared = {
        "index_id": spec.index_id,
        "model_id": spec.model_id,
        "vectors_version": spec.vectors_version,
        "query_set": asked.query_set,
        "origin": asked.origin,
        "part": part,
        "run_id": run.run_id,
        "measured_at": now(),
    }
    rows = []
    for one in measured:
        reranked = refined and one.measured.point.k_factor > 1
        rows.append(shared | one.row() | {"k": one.recall.k, "reranked": reranked})
    run.append("recalls", rows)


def metrics_of(measured: Sequence[PointFigures], point: Point) -> dict[str, float]:
    """MLflow metrics of one point: each kind's recall with its interval, and time."""
    found: dict[str, float] = {}
    for one in measured:
        if one.measured.point != point or one.group.segment is not None:
            continue
        name = f"recall_at_{one.recall.k}.{one.group.kind.replace(',', '_')}"
        found |= {
            name: one.recall.value,
            f"{name}.low": one.recall.low,
            f"{name}.high": one.recall.high,
            f"{name}.first": one.first.value,
            f"{name}.ms": one.ms_median,
        }
    return found


def require_plots(report: str | None) -> None:
    """Raise SettingsError before the work where a report is asked for that cannot be drawn."""
    if report is None:
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SettingsError(
            f"recall.report={report} needs matplotlib on the driver (the extra gme-lake[train] has it); or leave it unset"
        ) from None


def write_report(
    path: str, measured: Sequence[PointFigures], *, title: str, facts: Mapping[str, str]
) -> tuple[Path, Path]:
    """The self-contained page, and the plot as PNG beside it; both are replaced. OSError where that is not possible."""
    plot = Path(path).with_suffix(".png")
    plot.parent.mkdir(parents=True, exist_ok=True)
    picture = recall_plot(measured)
    plot.write_bytes(picture)
    values = {
        "title": title,
        "facts": facts,
        "note": None,
        "figures": measured,
        "k": measured[0].recall.k,
        "plot": base64.b64encode(picture).decode(),
    }
    return write_html(path, template="recall_report.html", values=values), plot
