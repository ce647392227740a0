"""The plot of recall against time: after re-ranking and before, a colour for each kind of query."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from jobs.stages.recall.summary import PointFigures
from udfs.index.points import ANY_KIND

_MARKERS = "osD^vP*X"


def recall_plot(measured: Sequence[PointFigures]) -> bytes:
    """PNG: a line for each kind and k_factor, points along nprobe (numbers beside them), bars for the intervals.

    What is found before re-ranking (k_factor 1) has a panel and a scale of its own: it lies far below.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = _lines(measured)
    factors = {k_factor for _, k_factor in lines}
    panels = [(factors - {1}, "re-ranked"), (factors & {1}, "by codes alone")]
    panels = [(shown, title) for shown, title in panels if shown]
    figure = Figure(figsize=(5 + 4 * len(panels), 5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (shown, title) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        mine = {key: line for key, line in lines.items() if key[1] in shown}
        _panel(axes, mine, kinds=sorted({kind for kind, _ in lines}))
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("median milliseconds of a query, one core")
        axes.set_ylabel(f"recall@{measured[0].recall.k}")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _panel(
    axes: Any, lines: dict[tuple[str, int], list[PointFigures]], *, kinds: Sequence[str]
) -> None:
    factors = sorted({k_factor for _, k_factor in lines})
    for (kind, k_factor), line in lines.items():
        values = [one.recall.value for one in line]
        # A share of a skewed sample can lie outside its own interval by a hair.
        below = [max(0.0, one.recall.value - one.recall.low) for one in line]
        above = [max(0.0, one.recall.high - one.recall.value) for one in line]
        label = kind if factors == [1] else f"{kind}, k_factor {k_factor}"
        axes.errorbar(
            [one.ms_median for one in line],
            values,
            yerr=[below, above],
            color=f"C{kinds.index(kind)}",
            marker=_MARKERS[factors.index(k_factor) % len(_MARKERS)],
            linestyle="--" if k_factor < max(factors) else "-",
            linewidth=1.2,
            markersize=5,
            capsize=2,
            label=label,
        )
        for one in line:
            axes.annotate(
                str(one.measured.point.nprobe),
                (one.ms_median, one.recall.value),
                xytext=(4, -11),
                textcoords="offset points",
                fontsize="x-small",
                color=f"C{kinds.index(kind)}",
            )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", title="nprobe beside the points", title_fontsize="small")


def _lines(measured: Sequence[PointFigures]) -> dict[tuple[str, int], list[PointFigures]]:
    """By kind and k_factor, in order of nprobe; all kinds together are in the table, a line of them only hides others."""
    found: dict[tuple[str, int], list[PointFigures]] = {}
    for one in sorted(measured, key=lambda one: one.measured.point.nprobe):
        if one.group.segment is None and one.group.kind != ANY_KIND:
            found.setdefault((one.group.kind, one.measured.point.k_factor), []).append(one)
    return found
