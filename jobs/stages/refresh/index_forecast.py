"""What the index after a refresh will take, as build-index predicts it, before there are vectors to build it from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobs.lake.indexes import index_age, read_indexes
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.settings.index import IndexSettings
from jobs.stages.index.extend import MAX_SHARE, newest_base
from jobs.stages.index.plan import plan_at
from jobs.stages.index.predict import predict_cost
from jobs.stages.refresh.forecast import Forecast
from udfs.index.cost import CostEstimate, format_bytes, format_seconds
from udfs.specs import IndexSpec


@dataclass(frozen=True)
class IndexForecast:
    """An index of at most `rows` vectors: built whole, or so many added to index `added_to`.

    Seconds are by a trial of every step on one executor, bytes and memory by formula (udfs/index/cost.py); all are of
    tasks, without what Spark takes to read and move rows.
    """

    rows: int
    added_to: str | None
    factory: str
    shards: int
    seconds: float
    bytes: int
    task_bytes: int

    @classmethod
    def of(cls, spec: IndexSpec, cost: CostEstimate, *, added_to: str | None) -> IndexForecast:
        """The figures of an estimate; where rows are added nothing is trained."""
        train, peak = cost.train_seconds, cost.task_peak_bytes
        if added_to is not None:
            train, peak = 0.0, cost.encode_peak_bytes
        size = cost.index_bytes + cost.refine_bytes + cost.rows_bytes
        return cls(
            cost.rows,
            added_to,
            spec.plan.factory,
            spec.plan.shards,
            train + cost.encode_seconds,
            size,
            peak,
        )

    def __str__(self) -> str:
        done = f"at most {self.rows:,} rows as {self.factory} in {self.shards} shard(s)"
        if self.added_to is not None:
            done = f"at most {self.rows:,} rows are added to index {self.added_to}"
        return (
            f"index: {done}; {format_seconds(self.seconds)} of one core by a trial on an executor; by formula "
            f"{format_bytes(self.bytes)} and {format_bytes(self.task_bytes)} of memory for a task"
        )


def forecast_index(
    lake: Lake, settings: IndexSettings, *, model: ResolvedModel, forecast: Forecast
) -> IndexForecast | None:
    """The index of the model's vectors once what `forecast` says is embedded; None where there will be no row.

    Whether new rows are like those of the index that they would be added to is known only from their vectors: where they
    are not, it is built whole. Raises SettingsError where the settings of section `index` do not fit so many rows.
    """
    if not forecast.source_rows:
        return None
    version = lake.version("vectors") + 1
    planned = plan_at(lake, settings, model=model, version=version, rows=forecast.source_rows)
    indexes = read_indexes(lake, model_id=model.spec.model_id).values()
    base = newest_base(lake, indexes, planned.spec, settings=settings)
    if base is not None:
        age, rows = index_age(lake, base), forecast.rows
        fresh = age.missing + rows["new"] + rows["changed"] + rows["model"]
        gone = age.gone + rows["gone"] + rows["changed"]
        if max(fresh, gone) <= MAX_SHARE * base.rows:
            spec = replace(planned.spec, plan=replace(base.spec.plan, shards=1))
            cost = predict_cost(lake, spec, rows=fresh)
            return IndexForecast.of(spec, cost, added_to=base.spec.index_id)
    cost = predict_cost(lake, planned.spec, rows=planned.rows)
    return IndexForecast.of(planned.spec, cost, added_to=None)
