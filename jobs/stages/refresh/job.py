"""refresh-lake from start to end: plan, embed, index, verify, gate, promote, clean up; each step is that of its own
command.
"""

from __future__ import annotations

import logging

from pyspark.sql import functions as F

from jobs.lake.claims import claim
from jobs.lake.gates import Decision, GateCheck, record_decision
from jobs.lake.indexes import find_index, index_age, whole_manifest
from jobs.lake.lake import Lake, delta_table
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.releases import Release, current_release, promote
from jobs.lake.runs import Run, open_run
from jobs.settings.embed import EmbedSettings
from jobs.settings.settings import Settings
from jobs.stages.embed.job import embed_table
from jobs.stages.embed.source import Source
from jobs.stages.index.job import build_index
from jobs.stages.index.plan import plan_index
from jobs.stages.recall.job import measure_recall, open_spec
from jobs.stages.refresh.drift import check_drift
from jobs.stages.refresh.forecast import require_affordable
from jobs.stages.refresh.gate import check_coverage, check_quality, check_recall, compare_quality
from jobs.stages.refresh.plan import RefreshPlan, add_removal, plan_refresh
from jobs.stages.refresh.report import Outcome, RefreshReport, compare_plan
from jobs.stages.refresh.retention import remove
from jobs.stages.refresh.trial import check_trial, choose_trial
from jobs.stages.verify.verify import verify_index
from udfs.errors import ActiveRunError, IndexDataError
from udfs.index.cost import format_seconds

log = logging.getLogger("gme_lake")


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
        with run.stage("plan"):
            planned = plan_refresh(lake, registry, settings, wanted=run.model, again=again)
        log.info("%s", planned)
        planned.record(run)
        require_affordable(planned.seconds, settings.plan)
        return _Refresh(lake, run, registry, settings, planned).make()


class _Refresh:
    """One refresh at work: what its steps share, and what they have come to."""

    def __init__(
        self, lake: Lake, run: Run, registry: Registry, settings: Settings, planned: RefreshPlan
    ) -> None:
        self._lake, self._run, self._registry = lake, run, registry
        self._settings, self._planned = settings, planned
        self._tried = 0  # contents that a trial has embedded
        self._is_embedded = False  # all that was planned

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
            checks += self._try_model(target, serving)
            decision = Decision(target.spec.model_id, None, tuple(checks))
            if not decision.passed:
                return self._refuse(decision)
        version = self._embed(target, embed=self._rest()).source_version or 0
        self._is_embedded = True
        current = current_release(self._lake)
        if current is not None and self._is_up_to_date(current):
            self._clean_up()
            return self._report("nothing", current)
        coverage = self._check_coverage(target, version=version)
        if self._is_part() and not all(check.passed for check in coverage):
            # No verdict on the model: it is not held back, and the next refresh goes on.
            return self._report("refused", current, (*checks, *coverage))
        index_id = self._build_index(target)
        checks += [self._verify(index_id), *coverage]
        checks += self._check_recall(target, index_id)
        with self._run.stage("drift"):
            checks += check_drift(self._lake, self._settings.gate, model=target, release=current)
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

    def _embed(
        self, model: ResolvedModel, *, said: str = "", embed: EmbedSettings | None = None
    ) -> Run:
        """embed_table, by `embed` or section `embed`; the counts of the release's model, where that is another, and of a
        trial have `said` in their names.
        """
        with (
            self._run.stage(f"embed {said}".rstrip()),
            open_run(self._lake, self._registry, job="embed_table") as step,
        ):
            before = self._lake.version("vectors")
            embed_table(
                self._lake,
                step,
                model=model,
                source=self._settings.source,
                embed=embed or self._settings.embed,
                serving=self._settings.serving.spec(),
            )
        suffix = f"_{said.replace(' ', '_')}" if said else ""
        self._run.counts.update({f"{name}{suffix}": n for name, n in step.counts.items()})
        # What the plan says of all of it together.
        self._run.counts["contents"] += step.counts["embedded"]
        self._run.counts["vector_bytes"] += self._bytes_written(since=before)
        self._run.add_seconds("tasks.model", step.seconds.get("tasks.model", 0.0))
        self._run.add_step(step)
        return step

    def _bytes_written(self, *, since: int) -> int:
        """Bytes of the files that commits of rows have added to `vectors` after a version."""
        history = delta_table(self._lake.spark, self._lake.name("vectors")).history()
        added = F.col("operationMetrics")["numTargetBytesAdded"].cast("bigint")
        row = history.where(F.col("version") > since).agg(F.sum(added).alias("bytes")).first()
        return int(row.bytes or 0) if row else 0

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

    def _rest(self) -> EmbedSettings:
        """Section `embed` after a trial, whose rows are some of those that embed.limit allows."""
        embed = self._settings.embed
        if embed.limit is None:
            return embed
        return embed.model_copy(update={"limit": max(1, embed.limit - self._tried)})

    def _is_part(self) -> bool:
        """Whether rows of the source were left out, by embed.limit, where or retry."""
        return any(self._run.counts.get(name) for name in ("left", "outside"))

    def _check_coverage(self, model: ResolvedModel, *, version: int) -> list[GateCheck]:
        settings, lake = self._settings, self._lake
        largest = settings.embed.max_image_bytes
        source = Source.open(lake, settings.source, max_image_bytes=largest)
        with self._run.stage("coverage"):
            ids = source.ids(lake.spark, version=version)
            return check_coverage(lake, settings.gate, ids=ids, model_id=model.spec.model_id)

    def _try_model(self, new: ResolvedModel, old: ResolvedModel) -> list[GateCheck]:
        """Embed a trial's rows, which are kept, and look at them; what the rest takes is known better then, and may be more
        than the plan allows.
        """
        own, plan = self._planned.forecasts[-1], self._settings.plan
        rows, contents = own.source_rows, own.contents
        chosen = choose_trial(self._lake, self._settings, rows=rows, contents=contents)
        if chosen is None:
            return []
        step = self._embed(new, said="for the trial", embed=chosen)
        self._tried = step.counts["embedded"]
        with self._run.stage("trial"):
            checks = check_trial(self._lake, self._settings.gate, new=new, old=old)
        if step.work.tokens:  # none, where a refresh before this one has embedded the trial
            rest = own.after(step.work.tokens, seconds=step.work.model_seconds)
            said = f"after the trial: {format_seconds(rest.mean)} of one model for the rest"
            log.info("%s (%s to %s)", said, *map(format_seconds, rest[1:]))
            self._run.add_seconds("rest_after_trial", rest.mean)
            if all(check.passed for check in checks):
                require_affordable(rest, plan, spent=self._run.work.model_seconds)
        return checks

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
        if report.built:
            self._run.counts["index_bytes"] = report.bytes
            peaks = (step.counts["train_peak_bytes"], step.counts["encode_peak_bytes"])
            self._run.counts["index_task_bytes"] = max(peaks)
            for name in ("tasks.train", "tasks.encode"):
                self._run.add_seconds("tasks.index", step.seconds.get(name, 0.0))
        self._run.add_step(step)
        return report.spec.index_id

    def _verify(self, index_id: str) -> GateCheck:
        with (
            self._run.stage("verify"),
            open_run(self._lake, self._registry, job="verify_index") as step,
        ):
            found = verify_index(self._lake, step, index_id=index_id)
        wrong = len(found.findings)
        remedy = f"gme-lake repair-index --index-id {index_id}"
        return GateCheck("whole", float(wrong), 0.0, found.ok, str(found), remedy)

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
            removal = add_removal(self._lake, self._settings, self._planned).removal
            if removal is None or removal.is_empty:
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
        run = self._run
        return RefreshReport(
            outcome=outcome,
            model=self._planned.target,
            release=release,
            forecasts=self._planned.forecasts,
            counts=dict(run.counts),
            seconds=dict(run.seconds),
            model_seconds=run.work.model_seconds,
            cost=run.work.cost(price_per_hour=run.price_per_hour),
            checks=checks,
            held_back=self._planned.held_back,
            compared=compare_plan(run) if self._is_embedded else (),
        )
