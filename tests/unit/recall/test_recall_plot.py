"""The plot of a measurement is drawn for any mix of kinds and points, and shows what the table says."""

import numpy as np
import pytest

from jobs.stages.recall import plot
from jobs.stages.recall.plot import recall_plot
from jobs.stages.recall.summary import Group, figures
from udfs.index.points import Point
from udfs.recall.tuning import Measured


def measured(kinds: list[str], factors: list[int]) -> tuple:
    rng = np.random.default_rng(0)
    points = [
        Measured(Point(n, f), rng.binomial(10, 0.9, 40) / 10, np.ones(40), rng.random(40) + n)
        for n in (4, 1, 16)
        for f in factors
    ]
    groups = {Group("any"): np.ones(40, bool), Group("any", "shelf", "low"): np.arange(40) < 5}
    groups |= {Group(kind): np.arange(40) % len(kinds) == n for n, kind in enumerate(kinds)}
    return tuple(figures(points, groups, k=10))


@pytest.mark.parametrize("kinds", [["row"], ["image", "image,text", "text"]])
@pytest.mark.parametrize("factors", [[1], [5], [1, 10, 20], list(range(1, 13))])
def test_every_kind_and_factor_has_a_line(kinds, factors, monkeypatch):
    drawn = {}

    def panel(axes, lines, *, kinds):
        drawn.update(
            {key: [one.measured.point.nprobe for one in line] for key, line in lines.items()}
        )
        return real(axes, lines, kinds=kinds)

    real = plot._panel
    monkeypatch.setattr(plot, "_panel", panel)
    assert recall_plot(measured(kinds, factors)).startswith(b"\x89PNG")
    assert drawn == {(kind, f): [1, 4, 16] for kind in kinds for f in factors}
