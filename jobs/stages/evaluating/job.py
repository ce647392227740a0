"""evaluate_retrieval from start to end: read tasks, embed both sides, rank, measure, record, compare, show."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.driver.evaluation_report import EvaluationPage, write_evaluation_report
from jobs.driver.lake import absolute
from jobs.driver.storage import remove_folder
from jobs.driver.tasks import clear_task_errors
from jobs.stages.evaluating.compare import ComparedRow, compare
from jobs.stages.evaluating.corpora import Searched, Suite
from jobs.stages.evaluating.layouts import read_task
from jobs.stages.evaluating.measures import METRICS, first_hits, measure, parse_metric
from jobs.stages.evaluating.ranking import embedded_queries, ranked, staged_queries
from jobs.stages.evaluating.record import Evaluation, record
from jobs.stages.evaluating.shown import Ranked, task_examples
from jobs.stages.evaluating.summary import SummaryRow, TaskScore, summarise
from jobs.stages.evaluating.tasks import EvaluationTask, load_tasks
from udfs.errors import SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.driver.lake import Lake
    from jobs.driver.registry import ResolvedModel
    from jobs.driver.runs import Run


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation came to: its table, and its difference to another one where that was asked for."""

    evaluation_id: str
    lines: Sequence[SummaryRow]
    differences: Sequence[ComparedRow]
    page: Path | None


def evaluate_retrieval(lake: Lake, run: Run, *, model: ResolvedModel) -> EvaluationReport:
    """Evaluate a model on the tasks of `evaluate`, exactly, and record it in `evaluations`.

    Documents are embedded once per model and kept under the lake; another run finds them. A document or query that
    cannot be embedded is counted, and such a query scores 0. Raises SettingsError or LakeError for tasks that cannot
    be read.
    """
    settings = lake.settings.evaluate
    tasks = load_tasks(settings)
    metrics = {task.name: _metrics(task, depth=settings.depth) for task in tasks}
    run.model = model
    run.begin()
    staging = lake.folder("staging", run.run_id)
    searched = [Searched(t.name, t.corpus_key, read_task(lake.spark, t)) for t in tasks]
    evaluation = Evaluation(uuid.uuid4().hex[:16], run.run_id, model.spec.model_id)
    try:
        with run.stage("stage"), clear_task_errors():
            suite = Suite.open(lake, searched)
            suite.stage()
            queries = staged_queries(suite, folder=f"{staging}/queries")
            judgements = _staged_judgements(searched, folder=f"{staging}/judgements")
        with run.stage("embed documents"):
            suite.embed(model)
        with run.stage("embed queries"):
            asked = embedded_queries(suite, queries, model, folder=f"{staging}/embedded")
        with run.stage("rank"), clear_task_errors():
            vectors = suite.vectors(model)
            found = ranked(suite, asked, vectors, depth=settings.depth, dim=model.spec.dim)
            found.write.partitionBy("task").parquet(f"{staging}/rankings")
        with run.stage("measure"):
            counted = _Counted.of(asked, vectors)
            measured = [
                _measured(task, of, metrics[task.name], counted, judgements, f"{staging}/rankings")
                for task, of in zip(tasks, searched, strict=True)
            ]
            scores = [one.score for one in measured]
            record(
                lake, evaluation, scores, first_hits={m.score.name: m.first_hits for m in measured}
            )
        lines = summarise(scores)
        _log(run, evaluation, lines)
        compared = _compared(lake, evaluation, against=settings.against)
        page = None
        if settings.report:
            with run.stage("report"):
                shown = task_examples(suite, measured, queries=queries)
                facts = _facts(run, evaluation, model, scores)
                page = write_evaluation_report(
                    absolute(settings.report),
                    EvaluationPage(
                        title=f"Retrieval of {model.name} version {model.version}",
                        lines=lines,
                        facts=facts,
                        examples=shown,
                        differences={(row.level, row.name): row.difference for row in compared},
                        against=settings.against,
                    ),
                )
    finally:
        remove_folder(lake.spark, staging)
    return EvaluationReport(evaluation.evaluation_id, lines, compared, page)


@dataclass(frozen=True)
class _Counted:
    """Documents by corpus and queries by task, and how many of them have no vector."""

    documents: dict[str, tuple[int, int]]
    queries: dict[str, int]

    @classmethod
    def of(cls, queries: DataFrame, vectors: DataFrame) -> _Counted:
        from pyspark.sql import functions as F

        bad = F.count_if(F.col("status") != "ok").alias("bad")
        rows = vectors.groupBy("corpus").agg(F.count(F.lit(1)).alias("all"), bad).collect()
        asked = queries.groupBy("task").agg(bad).collect()
        return cls(
            {row.corpus: (int(row["all"]), int(row.bad)) for row in rows},
            {row.task: int(row.bad) for row in asked},
        )


def _measured(
    task: EvaluationTask,
    searched: Searched,
    metrics: Sequence[str],
    counted: _Counted,
    judgements: DataFrame,
    rankings: str,
) -> Ranked:
    spark = judgements.sparkSession
    mine = spark.read.parquet(rankings).where(f"task = '{task.name}'")
    ranking = mine.select("query_id", "id", "score", "rank").toArrow()
    ranking = ranking.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    judged = judgements.where(f"task = '{task.name}'").drop("task").toArrow()
    scores = measure(ranking, judged, metrics=metrics)
    documents, rejected = counted.documents[searched.corpus]
    score = TaskScore.of(
        task, scores, documents=documents, rejected=(rejected, counted.queries[task.name])
    )
    return Ranked(score, searched.corpus, first_hits(ranking), judged)


def _staged_judgements(searched: Sequence[Searched], *, folder: str) -> DataFrame:
    from functools import reduce

    from pyspark.sql import functions as F

    frames = [of.data.judgements.withColumn("task", F.lit(of.name)) for of in searched]
    union = reduce(lambda one, other: one.unionByName(other), frames)
    union.write.partitionBy("task").parquet(folder)
    return union.sparkSession.read.parquet(folder)


def _metrics(task: EvaluationTask, *, depth: int) -> list[str]:
    """All usual metrics that a ranking of this depth shows, and the task's own."""
    if parse_metric(task.metric)[1] > depth:
        raise SettingsError(
            f"task {task.name} is measured by {task.metric}; rankings are {depth} deep: raise evaluate.depth"
        )
    usual = [metric for metric in METRICS if parse_metric(metric)[1] <= depth]
    return list(dict.fromkeys([*usual, task.metric]))


def _compared(lake: Lake, evaluation: Evaluation, *, against: str | None) -> list[ComparedRow]:
    return compare(lake, evaluation.evaluation_id, against=against) if against else []


def _log(run: Run, evaluation: Evaluation, lines: Sequence[SummaryRow]) -> None:
    run.tags["evaluation_id"] = evaluation.evaluation_id
    for line in lines:
        name = f"{line.level}.{line.name}.{line.metric}".replace("@", "_at_")
        run.metrics[name] = line.score.mean
    tasks = [line for line in lines if line.level == "task"]
    run.counts["tasks"] = len(tasks)
    run.counts["queries"] = sum(line.score.queries for line in tasks)


def _facts(
    run: Run, evaluation: Evaluation, model: ResolvedModel, scores: Sequence[TaskScore]
) -> dict[str, str]:
    rejected = sum(score.rejected_queries for score in scores)
    facts = {
        "model": f"{model.name} version {model.version}\n{model.spec.model_id}",
        "evaluation": evaluation.evaluation_id,
        "tasks": f"{len(scores)}",
        "queries": f"{sum(len(score.scores.query_ids) for score in scores):,}",
        "queries without a vector": f"{rejected:,}",
        "search": "exact",
    }
    return facts | {f"seconds to {name}": f"{seconds:.1f}" for name, seconds in run.seconds.items()}
