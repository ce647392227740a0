"""What a refresh is going to do: which models, what embedding and index will take, and what goes afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobs.lake.lake import Lake
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.releases import newest_releases
from jobs.lake.runs import Run
from jobs.settings.settings import Settings
from jobs.stages.refresh.effort import Figure, add_figures
from jobs.stages.refresh.forecast import Forecast, forecast_embedding
from jobs.stages.refresh.held_back import why_held_back
from jobs.stages.refresh.index_forecast import IndexForecast, forecast_index
from jobs.stages.refresh.machines import require_fits
from jobs.stages.refresh.retention import Removal, plan_removal

HELD_BACK = "the model of the alias is held back: {}; --again tries it again"


@dataclass(frozen=True)
class RefreshPlan:
    """What a refresh does: the model of the alias, the one it releases, and the one of the release where that is another.

    `index` is None where no row changes.
    """

    wanted: ResolvedModel
    target: ResolvedModel
    serving: ResolvedModel | None
    held_back: str | None
    forecasts: tuple[Forecast, ...]
    index: IndexForecast | None
    removal: Removal | None = None

    @property
    def seconds(self) -> Figure:
        """Of one model, for all models."""
        return add_figures(forecast.seconds for forecast in self.forecasts)

    def __str__(self) -> str:
        lines = [str(forecast) for forecast in self.forecasts]
        if self.index is not None:
            lines.append(str(self.index))
        if self.held_back is not None:
            lines.append(HELD_BACK.format(self.held_back))
        if self.removal is not None:
            lines.append(f"would remove {self.removal}")
        return "\n".join(lines)

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "model_id": self.target.spec.model_id,
            "release_model_id": self.serving and self.serving.spec.model_id,
            "held_back": self.held_back,
            "forecasts": self.forecasts,
            "index": self.index,
            "removal": self.removal,
        }

    def record(self, run: Run) -> None:
        """Put what is expected beside what the run will have counted in the end, under the same names."""
        for forecast in self.forecasts:
            run.counts["planned.contents"] += forecast.contents
            run.add_metric("planned.tokens", forecast.tokens.mean)
            run.counts["planned.vector_bytes"] += forecast.vector_bytes
            run.add_seconds("planned.tasks.model", forecast.seconds.mean)
        if self.index is not None:
            run.counts["planned.index_bytes"] = self.index.bytes
            run.counts["planned.index_task_bytes"] = self.index.task_bytes
            run.add_seconds("planned.tasks.index", self.index.seconds)


def plan_refresh(
    lake: Lake,
    registry: Registry,
    settings: Settings,
    *,
    wanted: ResolvedModel,
    again: bool,
    trial: bool = True,
) -> RefreshPlan:
    """Which models a refresh brings up to date where the alias names `wanted`, and what that takes. Writes nothing into
    the lake; `trial` as of `forecast_embedding`.

    Raises SettingsError or CheckpointError where executors cannot do it.
    """
    releases = newest_releases(lake, limit=None)
    held_back, serving = None, None
    if releases and releases[0].model_id != wanted.spec.model_id:
        serving = registry.find(releases[0].model_id)
        if not again:
            held_back = why_held_back(lake, releases, model_id=wanted.spec.model_id)
    target = serving if held_back and serving else wanted
    if target is serving:
        serving = None
    forecasts = forecast_embedding(lake, settings, model=target, serving=serving, trial=trial)
    planned = RefreshPlan(wanted, target, serving, held_back, forecasts, None)
    own = forecasts[-1]
    if not any(own.rows.values()):
        return planned
    index = forecast_index(lake, settings.index, model=target, forecast=own)
    if index is not None and own.machines is not None:
        require_fits(index.task_bytes, own.machines, index=f"an index of {index.rows:,} rows")
    return replace(planned, index=index)


def add_removal(lake: Lake, settings: Settings, planned: RefreshPlan) -> RefreshPlan:
    """The plan with what would be removed at the end, as things are now."""
    models = [planned.target, planned.wanted, *([planned.serving] if planned.serving else [])]
    keep = {model.spec.model_id for model in models}
    return replace(planned, removal=plan_removal(lake, settings.refresh, keep=keep))
