"""Measurements kept: rows of `recalls`, metrics of the run, an HTML page and the plot of recall against time."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.driver.html_page import write_html
from jobs.driver.lake import now
from jobs.stages.recall.queries import AskedQueries
from jobs.stages.recall.summary import PointFigures
from udfs.ann.points import ANY_KIND, Point
from udfs.errors import SettingsError

if TYPE_CHECKING:
    from jobs.driver.lake import Lake
    from jobs.driver.runs import Run
    from udfs.specs import IndexSpec


def append_recalls(
    lake: Lake,
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
    lake.append("recalls", rows)


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
    picture = _plot(measured)
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


def _plot(measured: Sequence[PointFigures]) -> bytes:
    """Recall against time: a line for each kind and k_factor, points along nprobe, bars for the intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for (kind, k_factor), line in _lines(measured).items():
        below = [one.recall.value - one.recall.low for one in line]
        above = [one.recall.high - one.recall.value for one in line]
        axes.errorbar(
            [one.ms_median for one in line],
            [one.recall.value for one in line],
            # A share of a skewed sample can lie outside its own interval by a hair.
            yerr=[[max(0.0, x) for x in below], [max(0.0, x) for x in above]],
            marker="o",
            capsize=3,
            label=f"{kind}, {k_factor} k candidates",
        )
    axes.set_xlabel("median milliseconds of a query, one core")
    axes.set_ylabel(f"recall@{measured[0].recall.k}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _lines(measured: Sequence[PointFigures]) -> dict[tuple[str, int], list[PointFigures]]:
    found: dict[tuple[str, int], list[PointFigures]] = {}
    kinds = {one.group.kind for one in measured} - {ANY_KIND}
    for one in measured:
        # With one kind, "any" is the same line again.
        if one.group.segment is not None or (len(kinds) == 1 and one.group.kind == ANY_KIND):
            continue
        found.setdefault((one.group.kind, one.measured.point.k_factor), []).append(one)
    return found
