"""Rankings of a set of tasks become scores: written once, then measured task by task against the judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.settings.settings import Settings
from jobs.stages.evaluate.data.corpora import Searched, Suite
from jobs.stages.evaluate.data.layouts import read_task
from jobs.stages.evaluate.data.tasks import EvaluationTask
from jobs.stages.evaluate.figures.measures import METRICS, first_hits, measure, parse_metric
from jobs.stages.evaluate.figures.ranking import RANKED, embed_queries, stage_queries
from jobs.stages.evaluate.figures.summary import TaskScore
from jobs.stages.evaluate.page.shown import RankedTask
from udfs.drawing.tasks import JUDGEMENTS
from udfs.errors import LakeError, SettingsError


@dataclass(frozen=True)
class EmbeddedCounts:
    """Documents by corpus and queries by task: how many there are, and how many of them have no vector."""

    documents: dict[str, tuple[int, int]]
    queries: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class EmbeddedTasks:
    """Tasks whose documents and queries are embedded, to be ranked and measured; `folder` is for files of this run.

    `staged` are the queries as they were read, `queries` and `vectors` the embedded sides: see `embed_queries`
    and `Suite.vectors`.
    """

    suite: Suite
    tasks: Sequence[EvaluationTask]
    staged: DataFrame
    judgements: DataFrame
    queries: DataFrame
    vectors: DataFrame
    counts: EmbeddedCounts
    folder: str


def embed_tasks(
    lake: Lake,
    run: Run,
    tasks: Sequence[EvaluationTask],
    *,
    model: ResolvedModel,
    folder: str,
    settings: Settings,
) -> EmbeddedTasks:
    """Read the tasks and embed both sides. Raises LakeError for data that cannot be read, or a task without any."""
    searched = [Searched(t.name, t.corpus_key, read_task(lake.spark, t)) for t in tasks]
    with run.stage("stage"), clear_task_errors():
        suite = Suite.open(lake, searched, settings)
        run.counts["corpora_staged"] = suite.stage()
        staged = stage_queries(suite, folder=f"{folder}/queries")
        judgements = _stage_judgements(searched, folder=f"{folder}/judgements")
        _check_staged(suite, staged)
    with run.stage("embed documents"):
        embedded = suite.embed(model)
        run.counts["documents_embedded"] = embedded.counts.get("embedded", 0)
    with run.stage("embed queries"):
        queries = embed_queries(suite, run, staged, model=model, folder=f"{folder}/embedded")
    vectors = suite.vectors(model)
    counts = _count(queries, vectors)
    return EmbeddedTasks(suite, tasks, staged, judgements, queries, vectors, counts, folder)


def measure_rankings(
    asked: EmbeddedTasks, found: DataFrame, *, name: str, depth: int
) -> list[RankedTask]:
    """Scores of rankings (RANKED), task by task; they are computed once, into the folder `name`.

    A query that is not ranked scores 0. Raises LakeError where a task has no relevant judgement.
    """
    folder = f"{asked.folder}/{name}"
    with clear_task_errors():
        found.write.partitionBy("task").parquet(folder)
    # With a schema: no rows at all are no error, and a task called 007 stays a string.
    rankings = found.sparkSession.read.schema(RANKED).parquet(folder)
    pairs = zip(asked.tasks, asked.suite.tasks, strict=True)
    return [_measure_task(asked, task, of.corpus, rankings, depth=depth) for task, of in pairs]


def metrics_of(task: EvaluationTask, *, depth: int) -> list[str]:
    """All usual metrics that a ranking of this depth shows, and the task's own. Raises SettingsError."""
    if parse_metric(task.metric)[1] > depth:
        raise SettingsError(
            f"task {task.name} is measured by {task.metric}; rankings are {depth} deep: raise evaluate.depth"
        )
    usual = [metric for metric in METRICS if parse_metric(metric)[1] <= depth]
    return list(dict.fromkeys([*usual, task.metric]))


def _measure_task(
    asked: EmbeddedTasks, task: EvaluationTask, corpus: str, rankings: DataFrame, *, depth: int
) -> RankedTask:
    mine = F.col("task") == task.name
    ranking = rankings.where(mine).select("query_id", "id", "score", "rank").toArrow()
    ranking = ranking.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    judged = asked.judgements.where(mine).drop("task").toArrow()
    scores = measure(ranking, judged, metrics=metrics_of(task, depth=depth))
    documents, rejected = asked.counts.documents[corpus]
    without = asked.counts.queries[task.name][1]
    score = TaskScore.of(task, scores, documents=documents, rejected=(rejected, without))
    return RankedTask(score, corpus, first_hits(ranking), judged)


def _stage_judgements(searched: Sequence[Searched], *, folder: str) -> DataFrame:
    frames = [of.data.judgements.withColumn("task", F.lit(of.name)) for of in searched]
    union = reduce(lambda one, other: one.unionByName(other), frames)
    union.write.partitionBy("task").parquet(folder)
    return union.sparkSession.read.schema(f"{JUDGEMENTS.ddl}, task string").parquet(folder)


def _count(queries: DataFrame, vectors: DataFrame) -> EmbeddedCounts:
    both = (F.count(F.lit(1)).alias("all"), F.count_if(F.col("status") != "ok").alias("bad"))
    documents = vectors.groupBy("corpus").agg(*both).collect()
    asked = queries.groupBy("task").agg(*both).collect()
    return EmbeddedCounts(
        {row.corpus: (int(row["all"]), int(row.bad)) for row in documents},
        {row.task: (int(row["all"]), int(row.bad)) for row in asked},
    )


def _check_staged(suite: Suite, queries: DataFrame) -> None:
    """Scores of 0 because nothing was there to find or to ask would look like a bad model."""
    corpora = {row.corpus for row in suite.documents().select("corpus").distinct().collect()}
    asking = {row.task for row in queries.select("task").distinct().collect()}
    for task in suite.tasks:
        if task.corpus not in corpora:
            raise LakeError(f"task {task.name} has no documents; check its folder and corpus")
        if task.name not in asking:
            raise LakeError(
                f"task {task.name} has no queries with judgements; check its split, and that both sides write query "
                "ids alike"
            )
