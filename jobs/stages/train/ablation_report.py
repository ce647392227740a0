"""Results of an ablation for people: a JSON file that can be kept, a table, a plot with intervals and scaling curve."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udfs.bootstrap import Score
from udfs.training.comparing import AVERAGE, CLASSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = (*CLASSES, AVERAGE)
_HEIGHT = 0.5  # inches a strategy


@dataclass(frozen=True)
class StrategyResult:
    """A strategy's scores by task, class and `average`, and their change from `against`, paired by query and seed.

    `train`: what it changes; `paper`: change of the average in GME's paper, in points; `seconds` of one training.
    """

    name: str
    train: Mapping[str, Any]
    against: str | None
    paper: float | None
    steps: int
    seconds: float
    scores: Mapping[str, Score]
    change: Mapping[str, Score] | None

    @property
    def verdict(self) -> str:
        """What the interval of the average's change says."""
        if self.change is None:
            return "compared with none"
        average = self.change[AVERAGE]
        if average.low <= 0 <= average.high:
            return "not told apart"
        return "better" if average.mean > 0 else "worse"


@dataclass(frozen=True)
class Ablation:
    """All strategies of one ablation; `train` is what they share."""

    metric: str
    seeds: tuple[int, ...]
    train: Mapping[str, Any]
    strategies: tuple[StrategyResult, ...]

    def write(self, path: str | Path) -> None:
        """Write as JSON with four digits."""
        text = json.dumps(_round(asdict(self)), indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> Ablation:
        """What `write` has written."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        strategies = tuple(_result(entry) for entry in content["strategies"])
        return cls(content["metric"], tuple(content["seeds"]), content["train"], strategies)

    def scaling(self) -> list[tuple[float, StrategyResult]]:
        """(share of the training data, result) of the strategies that change nothing else, smallest share first."""
        alike = [s for s in self.strategies if set(s.train) <= {"share_of_data"}]
        whole = float(self.train["share_of_data"])
        points = {float(s.train.get("share_of_data", whole)): s for s in alike}
        return sorted(points.items())


def results_table(ablation: Ablation) -> str:
    """Markdown: points of the metric by class and on average, and each strategy's change, with 95 % intervals."""
    paper = any(s.paper is not None for s in ablation.strategies)
    heads = ["strategy", *_COLUMNS, "change of the average", "against"]
    rows = [
        [
            result.name,
            *(_points(result.scores.get(column)) for column in _COLUMNS),
            _points(result.change[AVERAGE], signed=True) if result.change else "",
            result.against or "",
            *([f"{result.paper:+.2f}" if result.paper is not None else ""] if paper else []),
            f"{result.steps:,}",
            f"{result.seconds:,.0f}",
        ]
        for result in ablation.strategies
    ]
    heads += [*(["in GME's paper"] if paper else []), "steps", "seconds"]
    cells = [heads, ["---"] * len(heads), *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in cells
    ]
    seeds = ", ".join(map(str, ablation.seeds))
    return f"{ablation.metric} x 100, seeds {seeds}\n\n" + "\n".join(lines)


def plot(ablation: Ablation) -> Figure:
    """Every strategy's scores with their intervals; beside them the scaling curve where sizes were compared."""
    from matplotlib.figure import Figure

    points = ablation.scaling()
    scaled = len(points) > 1
    height = 2.0 + _HEIGHT * len(ablation.strategies)
    figure = Figure(figsize=(13 if scaled else 8, max(4.0, height)), layout="constrained")
    axes = figure.subplots(1, 2 if scaled else 1, squeeze=False, width_ratios=[3, 2][: 1 + scaled])
    _draw_scores(axes[0][0], ablation)
    if scaled:
        _draw_scaling(axes[0][1], points, ablation.metric)
    return figure


def _draw_scores(axes: Axes, ablation: Ablation) -> None:
    results = ablation.strategies
    for number, column in enumerate(_COLUMNS):
        shown = [(y, r.scores[column]) for y, r in enumerate(results) if column in r.scores]
        _bars(axes, [(y + 0.15 * (number - 1.5), s) for y, s in shown], column, upright=False)
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.invert_yaxis()
    axes.set_xlabel(f"{ablation.metric}, 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()


def _draw_scaling(axes: Axes, points: list[tuple[float, StrategyResult]], metric: str) -> None:
    for column in _COLUMNS:
        found = [(share, r.scores[column]) for share, r in points if column in r.scores]
        _bars(axes, found, column, upright=True)
    axes.set_xscale("log", base=2)
    shares = [share for share, _ in points]
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.set_xlabel("share of the training data, at the same number of steps")
    axes.set_ylabel(f"{metric}, 95 % intervals")
    axes.grid(alpha=0.3)


def _bars(axes: Axes, points: list[tuple[float, Score]], label: str, *, upright: bool) -> None:
    """Points (place, score) with their intervals; joined where they stand upright."""
    if not points:
        return
    places = [place for place, _ in points]
    means = [score.mean for _, score in points]
    below = [max(0.0, score.mean - score.low) for _, score in points]
    above = [max(0.0, score.high - score.mean) for _, score in points]
    if upright:
        axes.errorbar(places, means, yerr=[below, above], fmt="o-", capsize=2, label=label)
    else:
        axes.errorbar(means, places, xerr=[below, above], fmt="o", capsize=2, label=label)


def _points(score: Score | None, *, signed: bool = False) -> str:
    if score is None:
        return ""
    sign = "+" if signed else ""
    mean, low, high = (100 * value for value in (score.mean, score.low, score.high))
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _result(entry: Mapping[str, Any]) -> StrategyResult:
    scores = {name: Score(**score) for name, score in entry["scores"].items()}
    change = {name: Score(**score) for name, score in (entry["change"] or {}).items()} or None
    return StrategyResult(**{**entry, "scores": scores, "change": change})


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_round(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value
