"""What embedding pending rows takes: their tokens by a sample, and seconds a token by earlier runs or by a trial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.settings.refresh import PlanSettings
from jobs.stages.embed.pending import model_inputs
from jobs.stages.embed.source import Source
from udfs.bootstrap import Score, interval, ratio
from udfs.embed.batches import embed_batches
from udfs.embed.count import count_batches
from udfs.serving.wire import REQUEST_ROWS
from udfs.specs import EmbedSpec

_RUNS = 5  # of a model on a device, newest first, that its pace is known from
_LOOKED_AT = 50  # runs among which these are looked for
_WARM_ROWS = 32  # with which a trial begins: a model's first batches are slower than all others
_LEAST_SPREAD = (
    0.15  # of a pace: the same work on the same machine differs by as much from day to day
)


class Figure(NamedTuple):
    """A figure that is forecast: what is expected, and a 95 % interval."""

    mean: float
    low: float
    high: float

    def scale(self, number: float) -> Figure:
        """So many times the figure."""
        return Figure(self.mean * number, self.low * number, self.high * number)

    def times(self, other: Figure) -> Figure:
        """The product; the intervals are multiplied too, which is never too narrow."""
        return Figure(self.mean * other.mean, self.low * other.low, self.high * other.high)


NOTHING = Figure(0.0, 0.0, 0.0)


def add_figures(figures: Iterable[Figure]) -> Figure:
    """Their sum, with the interval of parts that err together."""
    parts = list(figures)
    return Figure(*(sum(part) for part in zip(*parts, strict=True))) if parts else NOTHING


@dataclass(frozen=True)
class Pace:
    """Seconds of the model for one token. `source` says how they are known."""

    seconds: Figure
    source: str


@dataclass(frozen=True)
class Effort:
    """Tokens of all pending contents, counted in `sampled` of them, and the pace; None where no token reaches the model."""

    sampled: int
    text_tokens: Figure
    picture_tokens: Figure
    tokens: Figure
    pace: Pace | None


def measure_effort(
    lake: Lake,
    plan: PlanSettings,
    pending: DataFrame,
    *,
    rows: DataFrame,
    source: Source,
    spec: EmbedSpec,
    contents: int,
    device: str | None,
) -> Effort:
    """Count the tokens of a sample of `pending` (content_hash, id, row_hash; one row a content, `contents` in all).

    `rows` are all of the source as the model sees them. Where no earlier runs of the model on `device` tell its pace,
    some of the sample are embedded, and nothing of them is kept but the time; without a device runs on any tell, and the
    model is not asked.
    """
    sample = _sample_rows(pending, rows=rows, source=source, size=plan.sample_rows).cache()
    try:
        counted = on_executors(sample, count_batches, spec=spec).table()
        text = counted["text_tokens"].to_numpy().astype(np.float64)
        picture = counted["picture_tokens"].to_numpy().astype(np.float64)
        tokens = _scale(text + picture, contents)
        pace = None
        if tokens.mean:
            enough = min(tokens.mean, plan.trial_rows * tokens.mean / contents)
            pace = _read_pace(lake, spec.model.model_id, device=device, least=enough)
            if pace is None and device is not None:
                pace = _try_rows(plan, sample, spec=spec, rows=len(text), device=device)
    finally:
        sample.unpersist()
    return Effort(len(text), _scale(text, contents), _scale(picture, contents), tokens, pace)


def _sample_rows(pending: DataFrame, *, rows: DataFrame, source: Source, size: int) -> DataFrame:
    """EMBED_INPUT of up to `size` pending rows, chosen by hash: each run's sample of the same rows is the same."""
    chosen = pending.orderBy(F.xxhash64("content_hash")).limit(size)
    some = rows.join(F.broadcast(chosen.select("id")), "id", "left_semi")
    found = source.add_row_hash(some).join(F.broadcast(chosen), ["id", "row_hash"])
    # A row that stands twice in the source has the same content.
    return model_inputs(found.dropDuplicates(["content_hash"])).repartition(_tasks(size))


def _tasks(rows: int) -> int:
    """Tasks for so many rows: each has requests as full as a run's, and one waiting in line."""
    return max(1, rows // (2 * REQUEST_ROWS))


def _scale(values: np.ndarray, number: int) -> Figure:
    """The sum over `number` rows, of which `values` float64 (n,) are a sample, or all."""
    if not len(values):
        return NOTHING
    if len(values) >= number:
        return Figure(*[float(values.sum())] * 3)
    found = interval(values)
    return Figure(found.mean, found.low, found.high).scale(number)


def _read_pace(lake: Lake, model_id: str, *, device: str | None, least: float) -> Pace | None:
    """Of the model's last runs on the device, or on any; None where they had fewer than `least` tokens.

    A run of few rows tells of loading and half empty batches: runs with less than a tenth of the largest one's tokens
    are passed over.
    """
    runs = lake.read("run_events").where("job = 'embed_table' AND status = 'succeeded'")
    runs = runs.where((F.col("model_id") == model_id) & F.expr("metrics['tokens'] > 0"))
    if device is not None:
        runs = runs.where(F.col("environment")["device"] == device)
    newest = runs.orderBy("ended_at", ascending=False).head(_LOOKED_AT)
    rows = [(row.metrics["model_seconds"], row.metrics["tokens"]) for row in newest]
    largest = max((tokens for _, tokens in rows), default=0)
    used = [(seconds, tokens) for seconds, tokens in rows if 10 * tokens >= largest][:_RUNS]
    total = sum(tokens for _, tokens in used)
    if not used or total < least:
        return None
    paces = [seconds / tokens for seconds, tokens in used]
    found = Figure(sum(seconds for seconds, _ in used) / total, min(paces), max(paces))
    return Pace(widen(found), f"{len(used)} earlier run(s) on {device or 'any device'}")


def _try_rows(
    plan: PlanSettings, sample: DataFrame, *, spec: EmbedSpec, rows: int, device: str
) -> Pace | None:
    """Embed some rows of the sample: a few first, which also load the model, then as many as the plan allows."""
    first = _embed(sample, min(rows, plan.trial_rows, _WARM_ROWS), spec=spec)
    pace = pace_of(*first)
    if pace is None:
        return None
    seconds, tokens = first
    allowed = int(plan.trial_seconds * len(seconds) / max(float(seconds.sum()), 1e-9))
    number = min(rows, plan.trial_rows, allowed)
    if number > len(seconds):
        seconds, tokens = _embed(sample, number, spec=spec)
        pace = pace_of(seconds, tokens) or pace
    found = Figure(pace.mean, pace.low, pace.high)
    return Pace(widen(found), f"a trial of {len(seconds):,} rows on {device}")


def _embed(sample: DataFrame, rows: int, *, spec: EmbedSpec) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the model and tokens of each row, float64 (n,) both."""
    part = sample.limit(rows).repartition(_tasks(rows))
    made = on_executors(part, embed_batches, spec=spec).table()
    return (
        made["model_seconds"].to_numpy().astype(np.float64),
        made["tokens"].to_numpy().astype(np.float64),
    )


def pace_of(seconds: np.ndarray, tokens: np.ndarray) -> Score | None:
    """Seconds a token of rows float64 (n,), (n,), with an interval over the windows that the model took them in.

    Rows of one window share its seconds by their tokens, so that their seconds a token are the same. None where no row
    has a token.
    """
    seen = tokens > 0
    seconds, tokens = seconds[seen], tokens[seen]
    if not len(seconds) or not seconds.all():
        return None
    _, window = np.unique(np.round(np.log(seconds / tokens), 6), return_inverse=True)
    sums = (np.bincount(window, values).astype(np.float64) for values in (seconds, tokens))
    return ratio(*sums)


def widen(pace: Figure) -> Figure:
    """A pace with an interval at least as wide as that of the same work on another day."""
    low, high = pace.mean * (1 - _LEAST_SPREAD), pace.mean * (1 + _LEAST_SPREAD)
    return Figure(pace.mean, min(pace.low, low), max(pace.high, high))
