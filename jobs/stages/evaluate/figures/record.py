"""Evaluations in the lake: appended once, read again query by query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.lake.lake import Lake, now
from jobs.lake.runs import Run
from jobs.stages.evaluate.figures.measures import QueryScores
from jobs.stages.evaluate.figures.summary import TaskScore, summarise
from udfs.errors import LakeError

EXACT = "exact"
Hits = Mapping[str, Mapping[str, Sequence[str]]]  # task to query_id to ids, best first


@dataclass(frozen=True)
class Evaluation:
    """Names one evaluation of a model; `search` is `exact`, or the index_id or factory that ranked."""

    evaluation_id: str
    run_id: str
    model_id: str
    search: str = EXACT


def record(
    run: Run, evaluation: Evaluation, tasks: Sequence[TaskScore], *, first_hits: Hits
) -> None:
    """Append an evaluation's queries, then its table: one commit each, and the second makes it readable.

    All metrics of each task are kept; averages, of the main metrics, are those of `summarise`. `first_hits` may leave
    out queries without any.
    """
    run.append("evaluated_queries", _query_rows(evaluation, tasks, first_hits))
    shared = vars(evaluation) | {"evaluated_at": now()}
    run.append("evaluations", [shared | row for row in _table_rows(tasks)])


def load_scores(lake: Lake, evaluation_id: str) -> list[TaskScore]:
    """The tasks of a recorded evaluation, in order of name. Raises LakeError where there is no such evaluation."""
    rows = _of(lake, "evaluations", evaluation_id).where("level = 'task' AND main")
    tasks = sorted(rows.collect(), key=lambda row: str(row["name"]))
    if not tasks:
        raise LakeError(_unknown(lake, evaluation_id))
    scores = load_queries(lake, evaluation_id)
    none = QueryScores([], {})
    return [_task_score(row, scores.get(row["name"], none)) for row in tasks]


def load_queries(lake: Lake, evaluation_id: str) -> dict[str, QueryScores]:
    """Scores of every query of a recorded evaluation by task, without counts of queries left out; {} for an unknown one."""
    columns = _of(lake, "evaluated_queries", evaluation_id).select("task", "query_id", "metrics")
    tasks: dict[str, list[tuple[str, dict[str, float]]]] = {}
    for task, query_id, metrics in columns.collect():
        tasks.setdefault(task, []).append((query_id, metrics))
    return {task: _query_scores(sorted(rows, key=_query_id)) for task, rows in tasks.items()}


def _query_rows(
    evaluation: Evaluation, tasks: Sequence[TaskScore], first_hits: Hits
) -> Iterator[dict[str, Any]]:
    for task in tasks:
        hits = first_hits.get(task.name, {})
        names = list(task.scores.values)
        table = np.column_stack(list(task.scores.values.values())).tolist()
        for query_id, values in zip(task.scores.query_ids, table, strict=True):
            yield {
                "evaluation_id": evaluation.evaluation_id,
                "task": task.name,
                "query_id": query_id,
                "metrics": dict(zip(names, values, strict=True)),
                "first_hits": list(hits.get(query_id, ())),
            }


def _table_rows(tasks: Sequence[TaskScore]) -> Iterator[dict[str, Any]]:
    by_name = {task.name: task for task in tasks}
    for row in summarise(tasks):
        line = {
            "level": row.level,
            "name": row.name,
            "pair": row.pair,
            "class": row.kind,
            "datasets": row.datasets,
            "queries": row.score.queries,
        }
        task = by_name[row.name] if row.level == "task" else None
        facts = _task_facts(task) if task else {}
        for metric in task.scores.values if task else [row.metric]:
            score = task.score(metric) if task else row.score
            figures = {"value": score.mean, "low": score.low, "high": score.high}
            yield line | facts | figures | {"metric": metric, "main": metric == row.metric}


def _task_facts(task: TaskScore) -> dict[str, Any]:
    return {
        "dataset": task.dataset,
        "split": task.split,
        "documents": task.documents,
        "rejected_documents": task.rejected_documents,
        "rejected_queries": task.rejected_queries,
        "unranked_queries": task.scores.unranked,
        "unjudged_queries": task.scores.unjudged,
    }


def _task_score(row: Any, scores: QueryScores) -> TaskScore:
    counted = QueryScores(
        scores.query_ids,
        scores.values,
        unranked=row["unranked_queries"],
        unjudged=row["unjudged_queries"],
    )
    if len(counted.query_ids) != row["queries"]:
        raise LakeError(
            f"evaluation {row['evaluation_id']}, task {row['name']}: evaluations says {row['queries']} queries, "
            f"evaluated_queries has {len(counted.query_ids)}; were rows deleted? Evaluate again"
        )
    return TaskScore(
        name=row["name"],
        dataset=row["dataset"],
        pair=row["pair"],
        kind=row["class"],
        metric=row["metric"],
        split=row["split"],
        scores=counted,
        documents=row["documents"],
        rejected_documents=row["rejected_documents"],
        rejected_queries=row["rejected_queries"],
    )


def _query_scores(rows: list[tuple[str, dict[str, float]]]) -> QueryScores:
    metrics = list(rows[0][1])
    values = {metric: np.array([of[metric] for _, of in rows]) for metric in metrics}
    return QueryScores([query_id for query_id, _ in rows], values)


def _query_id(row: tuple[str, dict[str, float]]) -> str:
    return row[0]


def _of(lake: Lake, table: str, evaluation_id: str) -> DataFrame:
    return lake.read(table).where(F.col("evaluation_id") == evaluation_id)


def _unknown(lake: Lake, evaluation_id: str) -> str:
    rows = (
        lake.read("evaluations").groupBy("evaluation_id", "model_id").agg({"evaluated_at": "max"})
    )
    newest = rows.orderBy("max(evaluated_at)", ascending=False).limit(5).collect()
    known = ", ".join(f"{row.evaluation_id} (model {row.model_id})" for row in newest)
    return (
        f"evaluation {evaluation_id} is not in {lake.name('evaluations')}; the newest there are: {known or 'none'}. "
        "Make one with gme-lake evaluate-retrieval"
    )
