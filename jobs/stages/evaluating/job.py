"""evaluate_retrieval from start to end: read tasks, embed both sides, rank, measure, record, compare, show."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.driver.evaluation_report import Differences, EvaluationPage, write_evaluation_report
from jobs.driver.lake import absolute
from jobs.driver.storage import remove_folder
from jobs.stages.evaluating.compare import ComparedRow, differences
from jobs.stages.evaluating.floors import Floors, floors_of, read_floors
from jobs.stages.evaluating.indexed import corpus_indexes, ranked_through
from jobs.stages.evaluating.measuring import Asked, asked_tasks, measured, metrics_of
from jobs.stages.evaluating.ranking import ranked
from jobs.stages.evaluating.record import Evaluation, load_scores, record
from jobs.stages.evaluating.shown import Ranked, task_examples
from jobs.stages.evaluating.summary import SummaryRow, summarise
from jobs.stages.evaluating.tasks import load_tasks

if TYPE_CHECKING:
    from jobs.driver.lake import Lake
    from jobs.driver.registry import ResolvedModel
    from jobs.driver.runs import Run


@dataclass(frozen=True)
class IndexedEvaluation:
    """The same queries through an index: its own evaluation, and its difference to the exact one."""

    evaluation: Evaluation
    lines: Sequence[SummaryRow]
    differences: Sequence[ComparedRow]


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation came to: its table, its floors, and its differences where they were asked for."""

    evaluation: Evaluation
    lines: Sequence[SummaryRow]
    floors: Floors
    against: str | None = None
    differences: Sequence[ComparedRow] = ()
    indexed: IndexedEvaluation | None = None
    page: Path | None = None

    @property
    def columns(self) -> Mapping[str, Differences]:
        """Differences by what they are, then by (level, name) of a line."""
        parts: dict[str, Sequence[ComparedRow]] = {}
        if self.against:
            parts[f"new − {self.against}"] = self.differences
        if self.indexed:
            parts["index − exact"] = self.indexed.differences
        return {
            title: {(row.level, row.name): row.difference for row in rows}
            for title, rows in parts.items()
        }


def evaluate_retrieval(lake: Lake, run: Run, *, model: ResolvedModel) -> EvaluationReport:
    """Evaluate a model on the tasks of `evaluate`, exactly, and record it in `evaluations`.

    Documents are embedded once per model and kept under the lake; another run finds them. A document or query that
    cannot be embedded is counted, and such a query scores 0. Raises SettingsError or LakeError for tasks that cannot
    be read.
    """
    settings = lake.settings.evaluate
    tasks = load_tasks(settings)
    known = read_floors(settings.floors)
    for task in tasks:
        metrics_of(
            task, depth=settings.depth
        )  # raises before anything is embedded, as the next line does
    old = load_scores(lake, settings.against) if settings.against else None
    run.model = model
    run.begin()
    folder = lake.folder("staging", run.run_id)
    try:
        asked = asked_tasks(lake, run, tasks, model=model, folder=folder)
        with run.stage("rank and measure"):
            found = ranked(
                asked.suite,
                asked.queries,
                asked.vectors,
                depth=settings.depth,
                dim=model.spec.dim,
            )
            exact = measured(asked, found, name="exact", depth=settings.depth)
        scores = [task.score for task in exact]
        report = EvaluationReport(
            evaluation=_recorded(
                lake, Evaluation(_new_id(), run.run_id, model.spec.model_id), exact
            ),
            lines=summarise(scores),
            floors=floors_of(asked, exact, known=known),
            against=settings.against,
            differences=differences(scores, old) if old is not None else (),
            indexed=_indexed(lake, run, asked, exact, model=model) if settings.index else None,
        )
        _log(run, report)
        if settings.report:
            with run.stage("report"):
                page = _write_page(run, asked, exact, report, file=settings.report)
            report = replace(report, page=page)
    finally:
        remove_folder(lake.spark, folder)
    return report


def _indexed(
    lake: Lake, run: Run, asked: Asked, exact: Sequence[Ranked], *, model: ResolvedModel
) -> IndexedEvaluation:
    """The same queries once more, through an index of each corpus."""
    depth = lake.settings.evaluate.depth
    indexes = corpus_indexes(asked, run, model=model, depth=depth)
    with run.stage("rank through index"):
        found = ranked_through(asked, indexes, depth=depth)
        through = measured(asked, found, name="indexed", depth=depth)
    evaluation = Evaluation(_new_id(), run.run_id, model.spec.model_id, indexes.factories)
    scores = [task.score for task in through]
    changed = differences(scores, [task.score for task in exact])
    return IndexedEvaluation(_recorded(lake, evaluation, through), summarise(scores), changed)


def _recorded(lake: Lake, evaluation: Evaluation, tasks: Sequence[Ranked]) -> Evaluation:
    hits = {task.score.name: task.first_hits for task in tasks}
    record(lake, evaluation, [task.score for task in tasks], first_hits=hits)
    return evaluation


def _new_id() -> str:
    return uuid.uuid4().hex[:16]


def _log(run: Run, report: EvaluationReport) -> None:
    """Figures of every line as MLflow metrics, e.g. `task.photos.ndcg_at_10` with `.low` and `.high`."""
    run.tags["evaluation_id"] = report.evaluation.evaluation_id
    for line in report.lines:
        name = _metric_name(line, line.metric)
        score = line.score
        run.metrics |= {name: score.mean, f"{name}.low": score.low, f"{name}.high": score.high}
    if report.indexed:
        run.tags["index_evaluation_id"] = report.indexed.evaluation.evaluation_id
    named = {"new_minus_old": report.differences}
    named |= {"index_minus_exact": report.indexed.differences} if report.indexed else {}
    for what, rows in named.items():
        for row in rows:
            name, change = _metric_name(row, what), row.difference
            run.metrics |= {
                name: change.mean,
                f"{name}.low": change.low,
                f"{name}.high": change.high,
            }
    tasks = [line for line in report.lines if line.level == "task"]
    run.counts["tasks"] = len(tasks)
    run.counts["queries"] = sum(line.score.queries for line in tasks)


def _metric_name(line: SummaryRow | ComparedRow, what: str) -> str:
    """As MLflow allows it: letters, digits and _-. /; a task may be called anything."""
    name = f"{line.level}.{line.name}.{what}".replace("@", "_at_")
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def _write_page(
    run: Run, asked: Asked, exact: Sequence[Ranked], report: EvaluationReport, *, file: str
) -> Path:
    page = EvaluationPage(
        title=_title(run),
        lines=report.lines,
        facts=_facts(run, report, exact),
        examples=task_examples(asked.suite, exact, queries=asked.staged),
        floors=report.floors,
        differences=report.columns,
    )
    return write_evaluation_report(absolute(file), page)


def _title(run: Run) -> str:
    return f"Retrieval of {run.model.name} version {run.model.version}" if run.model else run.job


def _facts(run: Run, report: EvaluationReport, exact: Sequence[Ranked]) -> dict[str, str]:
    scores = [task.score for task in exact]
    corpora = {task.corpus: task.score for task in exact}.values()
    search = f"exact, and {report.indexed.evaluation.search}" if report.indexed else "exact"
    facts = {
        "model_id": report.evaluation.model_id,
        "evaluation": report.evaluation.evaluation_id,
        "tasks": f"{len(scores)}",
        "queries": f"{sum(len(score.scores.query_ids) for score in scores):,}",
        "of them without a vector": f"{sum(score.rejected_queries for score in scores):,}",
        "documents": f"{sum(score.documents for score in corpora):,}",
        "of these without a vector": f"{sum(score.rejected_documents for score in corpora):,}",
        "search": search,
    }
    return facts | {f"seconds to {name}": f"{seconds:.1f}" for name, seconds in run.seconds.items()}
