"""What a refresh will embed and what that will take: rows by reason, tokens, seconds, money, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.settings.refresh import PlanSettings
from jobs.settings.settings import Settings
from jobs.stages.embed.chosen import contents_inside, statuses_to_retry
from jobs.stages.embed.history import TableState, read_standing
from jobs.stages.embed.job import open_source
from jobs.stages.embed.pending import first_contents, newest_contents, one_a_content
from jobs.stages.embed.source import Source
from jobs.stages.refresh.effort import NOTHING, Effort, Figure, measure_effort, widen
from jobs.stages.refresh.machines import Machines, look_at_machines
from udfs.errors import BudgetError
from udfs.index.cost import format_bytes, format_seconds

_PENDING = ("new", "changed", "model", "retried")
_ROW_BYTES = 150  # of a vector row beside its floats, which Parquet cannot pack: ids, hashes, times


@dataclass(frozen=True)
class Forecast:
    """What embedding the source with a model takes. `rows` by reason; `contents` go through the model, the others are
    copied. `left` wait for a later run and `outside` are not looked at, by section `embed`.

    `tokens` of the contents; `seconds` are of one model, `cost` is theirs by `plan.price_per_hour`, None without one;
    `vector_bytes` are those of the rows in table `vectors`. `machines` were looked at where there is something to embed.
    """

    model_id: str
    source_rows: int
    rows: Mapping[str, int]
    contents: int
    copied: int
    effort: Effort | None
    tokens: Figure
    seconds: Figure
    cost: Figure | None
    vector_bytes: int
    machines: Machines | None
    left: int = 0
    outside: int = 0

    def __str__(self) -> str:
        parts = {**self.rows, "left": self.left, "outside": self.outside}
        reasons = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count)
        lines = [
            f"model {self.model_id}: {reasons or 'no rows'} of {self.source_rows:,} rows of the source"
        ]
        effort = self.effort
        if effort is not None:
            lines.append(
                f"{self.contents:,} contents to embed and {self.copied:,} to copy: {self.tokens.mean:,.0f} tokens "
                f"({self.tokens.low:,.0f} to {self.tokens.high:,.0f}; {effort.text_tokens.mean:,.0f} of texts, "
                f"{effort.picture_tokens.mean:,.0f} of pictures, by {effort.sampled:,} rows), "
                f"{format_bytes(self.vector_bytes)} of vectors"
            )
        if effort is not None and effort.pace is not None:
            mean, low, high = map(format_seconds, self.seconds)
            cost = ""
            if self.cost is not None:
                cost = f", cost {self.cost.mean:.2f} ({self.cost.low:.2f} to {self.cost.high:.2f})"
            lines.append(f"{mean} of one model ({low} to {high}, by {effort.pace.source}){cost}")
        elif effort is not None:
            lines.append("no run of the model tells in what time")
        return "\n  ".join(lines)

    def after(self, tokens: float, *, seconds: float) -> Figure:
        """Seconds of the rest once so many of its tokens have gone through the model, by the pace at which they did."""
        rest = Figure(*(max(expected - tokens, 0.0) for expected in self.tokens))
        return rest.times(widen(Figure(*[seconds / tokens] * 3)))


@dataclass(frozen=True)
class _Snapshot:
    """The source at its newest version: `rows` as the model sees them, `contents` hashed once, when they are first
    asked for.

    `ids` are `Source.ids` where not all rows are looked at; `contents` are of those inside embed.where.
    """

    source: Source
    state: TableState
    rows: DataFrame
    ids: DataFrame | None
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
    prove that nothing has changed, no row is looked at; where no run tells how long a token takes, some rows are embedded.
    With `trial` false no executor is asked what it can do and no row embedded: where no run tells the time, it is unknown.
    Raises LakeError for a source that embed_table would refuse, and what `look_at_machines` does.
    """
    source, state = open_source(lake, settings.source, settings.embed)
    frame = source.read(lake.spark, version=source.version)
    rows = source.rows(frame)
    if source.selection.is_whole:
        ids, contents = None, newest_contents(source.contents(rows.where("id IS NOT NULL")))
    else:
        ids = source.ids(lake.spark, version=source.version).cache()
        repeated = bool(ids.where("rows > 1").head(1))
        contents = contents_inside(source, ids, frame, repeated=repeated)
    snapshot = _Snapshot(source, state, rows, ids, contents.cache())
    try:
        if serving is None:
            return (_forecast(lake, settings, snapshot, model=model, trial=trial),)
        replaced = serving.spec.model_id
        return (
            _forecast(lake, settings, snapshot, model=serving, trial=trial),
            _forecast(lake, settings, snapshot, model=model, replaced=replaced, trial=trial),
        )
    finally:
        snapshot.contents.unpersist()
        if ids is not None:
            ids.unpersist()


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
    number, effort, machines = 0, None, None
    if _is_unchanged(lake, settings, snapshot, model_id=model_id):
        ids = snapshot.ids
        known = _stored(lake, model_id) if ids is None else ids.where("inside")
        counts["unchanged"] = known.count()
    else:
        compared = _compare(lake, snapshot, model_id=model_id, replaced=replaced)
        counts = {row.reason: int(row["n"]) for row in compared.groupBy("reason").agg(
            F.count(F.lit(1)).alias("n")
        ).collect()}  # fmt: skip
        pending = compared.where(F.col("reason").isin(list(_PENDING)))
        wanted = pending.select("content_hash").distinct()
        known = _stored(lake, model_id).where("status = 'ok'")
        fresh = wanted.join(known, "content_hash", "left_anti").cache()
        number = fresh.count()
        if number:
            spec = settings.embed.spec(model.spec, settings.serving.spec(), source.reading)
            machines = look_at_machines(lake, spec) if trial else None
            effort = measure_effort(
                lake,
                settings.plan,
                one_a_content(contents.join(fresh, "content_hash")),
                rows=snapshot.rows,
                source=source,
                spec=spec,
                contents=number,
                device=machines.device if machines else None,
            )
        fresh.unpersist()
    reasons = {name: counts.get(name, 0) for name in ("new", "changed", "model", "gone")}
    if source.selection.retry:
        reasons["retried"] = counts.get("retried", 0)
    of_source = sum(count for name, count in counts.items() if name != "gone")
    outside = 0
    if snapshot.ids is not None:
        of_source, looked = snapshot.ids.count(), of_source
        outside = of_source - looked
    tokens = effort.tokens if effort else NOTHING
    seconds = tokens.times(effort.pace.seconds) if effort and effort.pace else NOTHING
    written = sum(reasons.get(name, 0) for name in _PENDING)
    price = settings.plan.price_per_hour
    return Forecast(
        model_id=model_id,
        source_rows=of_source,
        rows=reasons,
        contents=number,
        copied=written - number,
        effort=effort,
        tokens=tokens,
        seconds=seconds,
        cost=None if price is None else seconds.scale(price / 3600),
        vector_bytes=written * (4 * model.spec.dim + _ROW_BYTES),
        machines=machines,
        left=counts.get("left", 0),
        outside=outside,
    )


def _is_unchanged(lake: Lake, settings: Settings, snapshot: _Snapshot, *, model_id: str) -> bool:
    """Whether embed_table would say that nothing has changed."""
    if snapshot.source.is_rescanned(settings.embed) or settings.embed.retry:
        return False
    standing = read_standing(
        lake, snapshot.source, settings.embed, model_id=model_id, state=snapshot.state
    )
    return standing.proof.version == snapshot.state.version


def require_affordable(seconds: Figure, plan: PlanSettings, *, spent: float = 0.0) -> None:
    """Raise BudgetError where the upper bound of `seconds` of one model, and those `spent`, are more than section `plan`
    allows.
    """
    hours = (seconds.high + spent) / 3600
    kept = (
        f"{spent:.1f} s are spent, and what they gave is kept" if spent else "Nothing was embedded"
    )
    if plan.max_hours is not None and hours > plan.max_hours:
        raise BudgetError(
            f"the refresh would take up to {hours:.3f} h of one model; plan.max_hours={plan.max_hours:g} allows less. "
            f"{kept}. Allow more, or refresh fewer rows"
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
            f"plan.max_cost={plan.max_cost:g} allows less. {kept}. Allow more, or refresh fewer rows"
        )


def _stored(lake: Lake, model_id: str) -> DataFrame:
    vectors = lake.read("vectors").where(F.col("model_id") == model_id)
    return vectors.select("id", "content_hash", "status")


def _compare(lake: Lake, snapshot: _Snapshot, *, model_id: str, replaced: str | None) -> DataFrame:
    """(id, content_hash, reason): unchanged, changed, new, model, gone; retried or left, where section `embed` says so."""
    selection, ids = snapshot.source.selection, snapshot.ids
    stored = _stored(lake, model_id).withColumnRenamed("content_hash", "stored_hash")
    if selection.retry:
        statuses = statuses_to_retry(lake, snapshot.source, model_id=model_id)
        retried = stored.where(F.col("status").isin(statuses)).join(snapshot.contents, "id")
        return retried.select("id", "content_hash", F.lit("retried").alias("reason"))
    both = snapshot.contents.join(stored, "id", "full_outer")
    if ids is not None:
        both = both.join(ids.where("NOT inside").select("id"), "id", "left_anti")
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
    compared = both.withColumn("reason", reason)
    if selection.limit is not None:
        pending = compared.where(F.col("reason").isin(list(_PENDING)))
        known = _stored(lake, model_id).where("status = 'ok'")
        first = first_contents(pending, known, selection, limit=selection.limit)
        compared = compared.join(first.withColumn("first", F.lit(True)), "content_hash", "left")
        is_left = F.col("reason").isin(list(_PENDING)) & F.col("first").isNull()
        compared = compared.withColumn("reason", F.when(is_left, "left").otherwise(F.col("reason")))
    return compared.select("id", "content_hash", "reason")
