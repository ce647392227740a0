"""refresh-lake from start to end: plan, embed, index, verify, gate, promote, clean up; each step is that of its own command."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Literal

from jobs.lake.claims import claim, mark_killed_runs
from jobs.lake.gates import Decision, GateCheck, record_decision
from jobs.lake.indexes import find_index, index_age, whole_manifest
from jobs.lake.lake import Lake
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.releases import Release, current_release, promote
from jobs.lake.runs import Run, open_run
from jobs.settings.settings import Settings
from jobs.stages.embed.job import embed_table
from jobs.stages.index.job import build_index
from jobs.stages.index.plan import plan_index
from jobs.stages.recall.job import measure_recall, open_spec
from jobs.stages.refresh.forecast import Forecast, forecast_embedding, require_affordable
from jobs.stages.refresh.gate import check_coverage, check_quality, check_recall, compare_quality
from jobs.stages.refresh.held_back import why_held_back
from jobs.stages.refresh.retention import Removal, plan_removal, remove
from jobs.stages.verify.verify import verify_index
from udfs import storage
from udfs.errors import ActiveRunError, IndexDataError

log = logging.getLogger("gme_lake")

_HELD_BACK = "the model of the alias is held back: {}; --again tries it again"
Outcome = Literal["released", "nothing", "refused"]


@dataclass(frozen=True)
class RefreshReport:
    """What a refresh came to. `held_back`: why the model of the alias was left out, and the release's own was refreshed.

    `counts` are rows over all steps, `seconds` by step; `reasons` say what the gate refused.
    """

    outcome: Outcome
    model: ResolvedModel
    release: Release | None
    forecasts: tuple[Forecast, ...]
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    model_seconds: float = 0.0
    cost: float | None = None
    checks: tuple[GateCheck, ...] = ()
    held_back: str | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was refused, in words."""
        return tuple(check.said for check in self.checks if not check.passed)

    def __str__(self) -> str:
        named = f"{self.model.name} version {self.model.version} ({self.model.spec.model_id})"
        lines = [str(forecast) for forecast in self.forecasts]
        if self.held_back is not None:
            lines.append(_HELD_BACK.format(self.held_back))
        if self.outcome == "refused":
            lines.append(f"{named} is refused; {self.release or 'no release'} stays:")
            lines += [f"  {reason}" for reason in self.reasons]
            lines.append(
                "gme-lake release promote --force --note WHY releases an index all the same"
            )
        else:
            lines += [f"  {check.said}" for check in self.checks]
            lines.append(f"{self.outcome}: {self.release}")
        return "\n".join(lines)

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "outcome": self.outcome,
            "model_id": self.model.spec.model_id,
            "model_version": self.model.version,
            "release": self.release,
            "forecasts": self.forecasts,
            "counts": self.counts,
            "seconds": self.seconds,
            "model_seconds": self.model_seconds,
            "cost": self.cost,
            "checks": self.checks,
            "reasons": self.reasons,
            "held_back": self.held_back,
        }


@dataclass(frozen=True)
class RefreshPlan:
    """What a refresh does: the model of the alias, the one it releases, and the one of the release where that is another."""

    wanted: ResolvedModel
    target: ResolvedModel
    serving: ResolvedModel | None
    held_back: str | None
    forecasts: tuple[Forecast, ...]
    removal: Removal | None = None

    def __str__(self) -> str:
        lines = [str(forecast) for forecast in self.forecasts]
        if self.held_back is not None:
            lines.append(_HELD_BACK.format(self.held_back))
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
            "removal": self.removal,
        }


def plan_refresh(
    lake: Lake, registry: Registry, settings: Settings, *, wanted: ResolvedModel, again: bool
) -> RefreshPlan:
    """Which models a refresh brings up to date where the alias names `wanted`, and what that takes. Writes nothing into
    the lake.
    """
    release = current_release(lake)
    held_back, serving = None, None
    if release is not None and release.model_id != wanted.spec.model_id:
        serving = registry.find(release.model_id)
        if not again:
            held_back = why_held_back(lake, model_id=wanted.spec.model_id)
    target = serving if held_back and serving else wanted
    if target is serving:
        serving = None
    forecasts = forecast_embedding(lake, settings, model=target, serving=serving)
    return RefreshPlan(wanted, target, serving, held_back, forecasts)


def add_removal(lake: Lake, settings: Settings, planned: RefreshPlan) -> RefreshPlan:
    """The plan with what would be removed at the end, as things are now."""
    return replace(planned, removal=_plan_removal(lake, settings, planned))


def refresh_lake(
    lake: Lake, run: Run, *, registry: Registry, settings: Settings, again: bool = False
) -> RefreshReport:
    """Bring the release up to date with the source and with the model that the alias names, or say why not.

    Each step finds by the tables whether it is done: killed anywhere and run again, it goes on. The old release serves
    until the new one is promoted, and its model's vectors are brought up to date first. Raises BudgetError before the
    first row, RowsError where rows are not accounted for, ActiveRunError beside another refresh, and what the steps
    raise.
    """
    run.model = registry.resolve()
    with claim(run, name=run.job, timeout=settings.embed.claim_seconds):
        for dead in mark_killed_runs(lake, run.job, but=run.run_id):
            storage.remove_folder(lake.folder("staging", dead))
        with run.stage("plan"):
            planned = plan_refresh(lake, registry, settings, wanted=run.model, again=again)
        log.info("%s", planned)
        require_affordable(planned.forecasts, settings.plan)
        return _Refresh(lake, run, registry, settings, planned).make()


class _Refresh:
    """One refresh at work: what its steps share, and what they have come to."""

    def __init__(
        self, lake: Lake, run: Run, registry: Registry, settings: Settings, planned: RefreshPlan
    ) -> None:
        self._lake, self._run, self._registry = lake, run, registry
        self._settings, self._planned = settings, planned
        self._model_seconds = 0.0

    def make(self) -> RefreshReport:
        """The steps, one after another."""
        target, serving = self._planned.target, self._planned.serving
        checks: list[GateCheck] = []
        if serving is not None:
            self._embed(serving, said="for the release")
            checks = self._check_quality(target, serving)
            decision = Decision(target.spec.model_id, None, tuple(checks))
            if not decision.passed:
                return self._refuse(decision)
        self._embed(target)
        current = current_release(self._lake)
        if current is not None and self._is_up_to_date(current):
            self._clean_up()
            return self._report("nothing", current)
        index_id = self._build_index(target)
        checks.append(self._verify(index_id))
        checks += check_coverage(self._lake, self._settings.gate, model_id=target.spec.model_id)
        checks += self._check_recall(target, index_id)
        decision = Decision(target.spec.model_id, index_id, tuple(checks))
        if not decision.passed:
            return self._refuse(decision)
        with self._run.stage("promote"):
            record_decision(self._run, decision)
            release = promote(
                self._lake,
                self._run,
                index_id=index_id,
                limits=self._settings.release,
                model_id=target.spec.model_id,
            )
        self._run.tags.update({"index_id": index_id, "release_id": str(release.release_id)})
        self._clean_up()
        return self._report("released", release, decision.checks)

    def _embed(self, model: ResolvedModel, *, said: str = "") -> None:
        """embed_table; the counts of the release's model, where that is another, have `said` in their names."""
        with (
            self._run.stage(f"embed {said}".rstrip()),
            open_run(self._lake, self._registry, job="embed_table") as step,
        ):
            embed_table(
                self._lake,
                step,
                model=model,
                source=self._settings.source,
                embed=self._settings.embed,
                serving=self._settings.serving.spec(),
            )
        suffix = f"_{said.replace(' ', '_')}" if said else ""
        self._run.counts.update({f"{name}{suffix}": n for name, n in step.counts.items()})
        self._model_seconds += step.seconds.get("tasks.model", 0.0)

    def _check_quality(self, new: ResolvedModel, old: ResolvedModel) -> list[GateCheck]:
        """Before a row is paid for: documents and queries of the labelled tasks by both models."""
        gate, tasks = self._settings.gate, self._settings.evaluate.tasks
        if gate.quality_drop is None or not tasks:
            log.warning(
                "nothing compares the new model with the release's: %s",
                "gate.quality_drop is null" if tasks else "evaluate.tasks is empty",
            )
            return []
        with self._run.stage("quality"):
            found = compare_quality(self._lake, self._registry, self._settings, new=new, old=old)
        return [check_quality(found, drop=gate.quality_drop)]

    def _is_up_to_date(self, current: Release) -> bool:
        """Whether the release has the model wanted and an index of exactly its vectors."""
        if current.model_id != self._planned.target.spec.model_id or current.index_id is None:
            return False
        row = find_index(self._lake, current.index_id)
        if row is None:
            return False
        try:
            age = index_age(self._lake, whole_manifest(self._lake, row))
        except IndexDataError as error:
            log.warning("the index of release %d is built again: %s", current.release_id, error)
            return False
        return age.missing == age.gone == 0

    def _build_index(self, model: ResolvedModel) -> str:
        with (
            self._run.stage("index"),
            open_run(self._lake, self._registry, job="build_index") as step,
        ):
            planned = plan_index(self._lake, self._settings.index, model=model)
            log.info("%s", planned)
            report = build_index(self._lake, step, model=model, planned=planned)
        self._run.counts["indexed"] = report.rows
        return report.spec.index_id

    def _verify(self, index_id: str) -> GateCheck:
        with (
            self._run.stage("verify"),
            open_run(self._lake, self._registry, job="verify_index") as step,
        ):
            found = verify_index(self._lake, step, index_id=index_id)
        wrong = len(found.findings)
        return GateCheck("whole", float(wrong), 0.0, found.ok, str(found))

    def _check_recall(self, model: ResolvedModel, index_id: str) -> list[GateCheck]:
        """Measured, but of an index that searches exactly: few rows say little of a recall that is 1 by construction."""
        least = self._settings.gate.recall
        if least is None:
            return []
        spec = open_spec(self._lake, index_id)
        if spec.plan.factory == "Flat":
            return [
                GateCheck("recall", 1.0, least, True, "recall is 1: the index searches exactly")
            ]
        with (
            self._run.stage("recall"),
            open_run(self._lake, self._registry, job="measure_recall") as step,
        ):
            report = measure_recall(
                self._lake, step, spec=spec, model=model, settings=self._settings
            )
        return check_recall(report.own, least=least)

    def _refuse(self, decision: Decision) -> RefreshReport:
        record_decision(self._run, decision)
        self._run.tags["refused"] = "; ".join(decision.reasons)[:500]
        return self._report("refused", current_release(self._lake), decision.checks)

    def _clean_up(self) -> None:
        """Remove what no kept release needs. Beside a vacuum-indexes of somebody else that is left to the next refresh."""
        with self._run.stage("clean up"):
            removal = _plan_removal(self._lake, self._settings, self._planned)
            if removal.is_empty:
                return
            keep_days = self._settings.refresh.keep_days
            timeout = self._settings.embed.claim_seconds
            with open_run(self._lake, self._registry, job="vacuum_indexes") as step:
                try:
                    with claim(step, name=step.job, timeout=timeout):
                        remove(self._lake, step, removal, keep_days=keep_days)
                except ActiveRunError as error:
                    log.warning("nothing was removed: %s", error)
            self._run.counts.update(step.counts)

    def _report(
        self, outcome: Outcome, release: Release | None, checks: tuple[GateCheck, ...] = ()
    ) -> RefreshReport:
        price = self._settings.plan.price_per_hour
        self._run.metrics["model_seconds"] = self._model_seconds
        self._run.metrics["planned.model_seconds"] = sum(
            forecast.seconds[0] for forecast in self._planned.forecasts
        )
        return RefreshReport(
            outcome=outcome,
            model=self._planned.target,
            release=release,
            forecasts=self._planned.forecasts,
            counts=dict(self._run.counts),
            seconds=dict(self._run.seconds),
            model_seconds=self._model_seconds,
            cost=None if price is None else self._model_seconds / 3600 * price,
            checks=checks,
            held_back=self._planned.held_back,
        )


def _plan_removal(lake: Lake, settings: Settings, planned: RefreshPlan) -> Removal:
    models = [planned.target, planned.wanted, *([planned.serving] if planned.serving else [])]
    return plan_removal(lake, settings.refresh, keep={model.spec.model_id for model in models})
