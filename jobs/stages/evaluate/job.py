"""evaluate_retrieval from start to end: read tasks, embed both sides, rank, measure, record, compare, show."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.settings.settings import Settings
from jobs.stages.evaluate.data.tasks import load_tasks
from jobs.stages.evaluate.figures.compare import differences
from jobs.stages.evaluate.figures.floors import floors_of, read_floors
from jobs.stages.evaluate.figures.indexed import Indexes, corpus_indexes, rank_by_indexes
from jobs.stages.evaluate.figures.measuring import (
    EmbeddedTasks,
    embed_tasks,
    measure_rankings,
    metrics_of,
)
from jobs.stages.evaluate.figures.ranking import rank_exactly
from jobs.stages.evaluate.figures.record import Evaluation, load_scores, record
from jobs.stages.evaluate.figures.summary import summarise
from jobs.stages.evaluate.page.report import (
    EvaluationReport,
    IndexedEvaluation,
    log_figures,
    write_page,
)
from jobs.stages.evaluate.page.shown import RankedTask


def evaluate_retrieval(
    lake: Lake, run: Run, *, model: ResolvedModel, settings: Settings
) -> EvaluationReport:
    """Evaluate a model on the tasks of `evaluate`, exactly, and record it in `evaluations`.

    Documents are embedded once per model and kept under the lake; another run finds them. A document or query that
    cannot be embedded is counted, and such a query scores 0. Raises SettingsError or LakeError for tasks that cannot
    be read.
    """
    evaluate = settings.evaluate
    tasks = load_tasks(evaluate)
    known = read_floors(evaluate.floors)
    # What the settings have wrong is said before anything is embedded.
    for task in tasks:
        metrics_of(task, depth=evaluate.depth)
    old = load_scores(lake, evaluate.against) if evaluate.against else None
    run.model = model
    run.begin()
    with lake.staging(run.run_id) as folder:
        asked = embed_tasks(lake, run, tasks, model=model, folder=folder, settings=settings)
        indexes = corpus_indexes(asked, run, model=model) if evaluate.index else None
        with run.stage("rank and measure"):
            sides = (asked.suite, asked.queries, asked.vectors)
            found = rank_exactly(*sides, depth=evaluate.depth, dim=model.spec.dim)
            exact = measure_rankings(asked, found, name="exact", depth=evaluate.depth)
        scores = [task.score for task in exact]
        evaluation = Evaluation(_new_id(), run.run_id, model.spec.model_id)
        report = EvaluationReport(
            evaluation=_record(run, evaluation, exact),
            lines=summarise(scores),
            floors=floors_of(asked, exact, known=known),
            against=evaluate.against,
            differences=differences(scores, old) if old is not None else (),
            indexed=_indexed(run, asked, exact, indexes) if indexes else None,
        )
        log_figures(run, report)
        if evaluate.report:
            with run.stage("report"):
                page = write_page(run, asked, exact, report, file=evaluate.report)
            report = replace(report, page=page)
    return report


def _indexed(
    run: Run, asked: EmbeddedTasks, exact: Sequence[RankedTask], indexes: Indexes
) -> IndexedEvaluation:
    """The same queries once more, through an index of each corpus."""
    depth = asked.suite.settings.evaluate.depth
    with run.stage("rank through index"):
        found = rank_by_indexes(asked, indexes, depth=depth)
        through = measure_rankings(asked, found, name="indexed", depth=depth)
    evaluation = Evaluation(_new_id(), run.run_id, indexes.model_id, indexes.factories)
    scores = [task.score for task in through]
    changed = differences(scores, [task.score for task in exact])
    return IndexedEvaluation(_record(run, evaluation, through), summarise(scores), changed)


def _record(run: Run, evaluation: Evaluation, tasks: Sequence[RankedTask]) -> Evaluation:
    hits = {task.score.name: task.first_hits for task in tasks}
    record(run, evaluation, [task.score for task in tasks], first_hits=hits)
    return evaluation


def _new_id() -> str:
    return uuid.uuid4().hex[:16]
