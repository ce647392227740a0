"""What a refresh will embed and what that will take: rows by reason, and seconds from earlier runs or a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.settings.refresh import PlanSettings
from jobs.settings.settings import Settings
from jobs.stages.embed.history import TableState, read_standing
from jobs.stages.embed.job import open_source
from jobs.stages.embed.pending import model_inputs, newest_contents
from jobs.stages.embed.source import Source
from udfs.bootstrap import interval
from udfs.embed.batches import embed_batches
from udfs.errors import BudgetError
from udfs.index.cost import format_seconds

_RUNS = 5  # of the model, newest first, that its speed is known from


@dataclass(frozen=True)
class Pace:
    """Seconds of the model for one content: mean, and an interval of it. `source` says how it is known."""

    mean: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Forecast:
    """What embedding the source with a model takes. `rows` by reason; `contents` go through the model, the others are copied.

    `seconds` (mean, low, high) are of one model, `cost` is theirs by `plan.price_per_hour`, None without one.
    """

    model_id: str
    source_rows: int
    rows: Mapping[str, int]
    contents: int
    copied: int
    pace: Pace | None
    seconds: tuple[float, float, float]
    cost: tuple[float, float, float] | None

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {name}" for name, count in self.rows.items() if count)
        lines = [
            f"model {self.model_id}: {reasons or 'no rows'} of {self.source_rows:,} rows of the source"
        ]
        if self.pace is not None:
            mean, low, high = map(format_seconds, self.seconds)
            cost = ""
            if self.cost is not None:
                cost = f", cost {self.cost[0]:.2f} ({self.cost[1]:.2f} to {self.cost[2]:.2f})"
            lines.append(
                f"{self.contents:,} contents to embed and {self.copied:,} to copy: {mean} of one model "
                f"({low} to {high}, by {self.pace.source}){cost}"
            )
        elif self.contents:
            lines.append(
                f"{self.contents:,} contents to embed and {self.copied:,} to copy; no run of the model tells in what time"
            )
        return "\n  ".join(lines)


@dataclass(frozen=True)
class _Snapshot:
    """The source at its newest version: `rows` as the model sees them, `contents` hashed once, when they are first asked for."""

    source: Source
    state: TableState
    rows: DataFrame
    contents: DataFrame


def forecast_embedding(
    lake: Lake,
    settings: Settings,
    *,
    model: ResolvedModel,
    serving: ResolvedModel | None,
    trial: bool = True,
) -> tuple[Forecast, ...]:
    """Compare the newest version of the source with the vectors of `serving`, the release's model where that is another,
    and of `model`; nothing is written into the lake.

    Of `model`, rows that only `serving` has are there for the reason `model`, the others are `new`. Where earlier runs
    prove that nothing has changed, no row is looked at; where no run tells how long one takes, up to `plan.trial_rows`
    are embedded, or with `trial` false the time stays unknown. Raises LakeError for a source that embed_table would refuse.
    """
    source, state = open_source(lake, settings.source, settings.embed)
    rows = source.rows(source.read(lake.spark, version=source.version))
    contents = newest_contents(source.contents(rows.where("id IS NOT NULL"))).cache()
    snapshot = _Snapshot(source, state, rows, contents)
    try:
        if serving is None:
            return (_forecast(lake, settings, snapshot, model=model, trial=trial),)
        replaced = serving.spec.model_id
        return (
            _forecast(lake, settings, snapshot, model=serving, trial=trial),
            _forecast(lake, settings, snapshot, model=model, replaced=replaced, trial=trial),
        )
    finally:
        contents.unpersist()


def _forecast(
    lake: Lake,
    settings: Settings,
    snapshot: _Snapshot,
    *,
    model: ResolvedModel,
    trial: bool,
    replaced: str | None = None,
) -> Forecast:
    source, contents, model_id = snapshot.source, snapshot.contents, model.spec.model_id
    counts: dict[str, int] = {}
    number, pace = 0, None
    if _is_unchanged(lake, settings, snapshot, model_id=model_id):
        counts["unchanged"] = _stored(lake, model_id).count()
    else:
        compared = _compare(lake, contents, model_id=model_id, replaced=replaced)
        counts = {row.reason: int(row["n"]) for row in compared.groupBy("reason").agg(
            F.count(F.lit(1)).alias("n")
        ).collect()}  # fmt: skip
        pending = compared.where("reason IN ('new', 'changed', 'model')")
        wanted = pending.select("content_hash").distinct()
        known = _stored(lake, model_id).where("status = 'ok'")
        fresh = wanted.join(known, "content_hash", "left_anti").cache()
        number = fresh.count()
        if number:
            pace = _measured_pace(lake, model_id)
        if number and pace is None and trial:
            pace = _try_rows(
                settings,
                snapshot.rows,
                contents.join(fresh, "content_hash"),
                model=model,
                source=source,
            )
        fresh.unpersist()
    reasons = {name: counts.get(name, 0) for name in ("new", "changed", "model", "gone")}
    seconds = (0.0, 0.0, 0.0)
    if pace is not None:
        seconds = (pace.mean * number, pace.low * number, pace.high * number)
    price = settings.plan.price_per_hour
    cost = None
    if price is not None:
        cost = (seconds[0] / 3600 * price, seconds[1] / 3600 * price, seconds[2] / 3600 * price)
    return Forecast(
        model_id=model_id,
        source_rows=sum(count for name, count in counts.items() if name != "gone"),
        rows=reasons,
        contents=number,
        copied=sum(reasons[name] for name in ("new", "changed", "model")) - number,
        pace=pace,
        seconds=seconds,
        cost=cost,
    )


def _is_unchanged(lake: Lake, settings: Settings, snapshot: _Snapshot, *, model_id: str) -> bool:
    """Whether embed_table would say that nothing has changed."""
    if snapshot.source.is_rescanned(settings.embed):
        return False
    standing = read_standing(
        lake, snapshot.source, settings.embed, model_id=model_id, state=snapshot.state
    )
    return standing.proof.version == snapshot.state.version


def require_affordable(forecasts: Sequence[Forecast], plan: PlanSettings) -> None:
    """Raise BudgetError where the upper bound of all forecasts is more than section `plan` allows."""
    hours = sum(forecast.seconds[2] for forecast in forecasts) / 3600
    if plan.max_hours is not None and hours > plan.max_hours:
        raise BudgetError(
            f"the refresh would take up to {hours:.3f} h of one model; plan.max_hours={plan.max_hours:g} allows less. "
            "Nothing was embedded. Allow more, or refresh fewer rows"
        )
    if plan.max_cost is None:
        return
    if plan.price_per_hour is None:
        raise BudgetError(
            f"plan.max_cost={plan.max_cost:g} is set and plan.price_per_hour is not: say what an hour of one model costs"
        )
    cost = hours * plan.price_per_hour
    if cost > plan.max_cost:
        raise BudgetError(
            f"the refresh would cost up to {cost:.2f} ({hours:.3f} h of one model at {plan.price_per_hour:g} an hour); "
            f"plan.max_cost={plan.max_cost:g} allows less. Nothing was embedded. Allow more, or refresh fewer rows"
        )


def _stored(lake: Lake, model_id: str) -> DataFrame:
    vectors = lake.read("vectors").where(F.col("model_id") == model_id)
    return vectors.select("id", "content_hash", "status")


def _compare(lake: Lake, contents: DataFrame, *, model_id: str, replaced: str | None) -> DataFrame:
    """(id, content_hash, reason): unchanged, changed, new, model, gone."""
    stored = _stored(lake, model_id).select("id", F.col("content_hash").alias("stored_hash"))
    both = contents.join(stored, "id", "full_outer")
    before = F.lit(None).cast("boolean")
    if replaced is not None:
        old = _stored(lake, replaced).select("id", F.lit(True).alias("had_vector"))
        both, before = both.join(old, "id", "left"), F.col("had_vector")
    reason = (
        F.when(F.col("content_hash").isNull(), "gone")
        .when(F.col("stored_hash") == F.col("content_hash"), "unchanged")
        .when(F.col("stored_hash").isNotNull(), "changed")
        .when(before, "model")
        .otherwise("new")
    )
    return both.select("id", "content_hash", reason.alias("reason"))


def _measured_pace(lake: Lake, model_id: str) -> Pace | None:
    """Seconds a row by the model's last runs that embedded rows."""
    runs = lake.read("run_events").where("job = 'embed_table' AND status = 'succeeded'")
    runs = runs.where((F.col("model_id") == model_id) & F.expr("counts['embedded'] > 0"))
    rows = runs.orderBy("ended_at", ascending=False).head(_RUNS)
    used = [(row.seconds["tasks.model"], row.counts["embedded"]) for row in rows]
    if not used:
        return None
    paces = [seconds / embedded for seconds, embedded in used]
    mean = sum(seconds for seconds, _ in used) / sum(embedded for _, embedded in used)
    return Pace(mean, min(paces), max(paces), f"{len(used)} earlier run(s)")


def _try_rows(
    settings: Settings, rows: DataFrame, pending: DataFrame, *, model: ResolvedModel, source: Source
) -> Pace:
    """Embed a few pending rows, chosen by hash, and keep nothing but the time."""
    chosen = pending.orderBy(F.xxhash64("content_hash")).limit(settings.plan.trial_rows)
    chosen = chosen.select("id", "row_hash", "content_hash")
    scan = source.add_row_hash(rows).join(F.broadcast(chosen), ["id", "row_hash"])
    spec = settings.embed.spec(model.spec, settings.serving.spec(), source.reading)
    made = on_executors(model_inputs(scan), embed_batches, spec=spec).rows()
    seconds = np.array([row.model_seconds for row in made], dtype=np.float64)
    pace = interval(seconds)
    return Pace(pace.mean, pace.low, pace.high, f"a trial of {len(seconds)} rows")
