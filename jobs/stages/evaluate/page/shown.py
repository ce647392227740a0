"""A few good and bad queries of each task with their first hits, as the evaluation page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.reports.previews import Preview, previews
from jobs.stages.evaluate.data.corpora import Suite
from jobs.stages.evaluate.figures.summary import TaskScore
from jobs.stages.evaluate.page.examples import pick_queries
from jobs.stages.evaluate.page.html import Example, Shown, TaskExamples

_HITS = 6
_WANTED = 2
_KEY = "\x1f"  # between the parts of a key; no id has it


@dataclass(frozen=True, eq=False)
class RankedTask:
    """One task's figures, ids of its first hits by query, and its judgements (query_id, id, score)."""

    score: TaskScore
    corpus: str
    first_hits: Mapping[str, Sequence[str]]
    judgements: pa.Table


def task_examples(
    suite: Suite, tasks: Sequence[RankedTask], *, queries: DataFrame
) -> list[TaskExamples]:
    """Examples of every task; `queries` are the staged ones (key, task, query_id, text, image, image_uri, instruction)."""
    picked = {task.score.name: pick_queries(task.score) for task in tasks}
    asked = _preview_queries(suite, queries, picked)
    right = {task.score.name: _right(task, picked[task.score.name]) for task in tasks}
    wanted: set[str] = set()
    for task in tasks:
        for query_id in chain(*picked[task.score.name]):
            hits = task.first_hits.get(query_id, ())[:_HITS]
            ids = [*hits, *right[task.score.name][query_id][: _HITS + _WANTED]]
            wanted |= {f"{task.corpus}/{name}" for name in ids}
    found = _documents(suite, wanted)
    return [
        TaskExamples(
            task.score.name,
            *(
                [_example(task, q, asked, right[task.score.name][q], found) for q in ids]
                for ids in picked[task.score.name]
            ),
        )
        for task in tasks
    ]


def _example(
    task: RankedTask,
    query_id: str,
    asked: Mapping[tuple[str, str], tuple[Preview, str | None]],
    right: Sequence[str],
    found: Mapping[str, Preview],
) -> Example:
    # A judged query may be missing in the queries themselves.
    (text, image), instruction = asked.get((task.score.name, query_id), ((None, None), None))
    number = task.score.scores.query_ids.index(query_id)

    def shown(name: str) -> Shown:
        said, picture = found.get(f"{task.corpus}/{name}", (None, None))
        return Shown(name, said, picture, right=name in right)

    hits = task.first_hits.get(query_id, ())[:_HITS]
    return Example(
        query_id,
        float(task.score.values[number]),
        text,
        image,
        instruction,
        hits=[shown(name) for name in hits],
        wanted=[shown(name) for name in right if name not in hits][:_WANTED],
    )


def _right(task: RankedTask, picked: tuple[list[str], list[str]]) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {query_id: [] for query_id in chain(*picked)}
    columns = (task.judgements[name].to_pylist() for name in ("query_id", "id", "score"))
    for query_id, name, score in zip(*columns, strict=True):
        if score > 0 and query_id in rows:
            rows[query_id].append(name)
    return rows


def _preview_queries(
    suite: Suite, queries: DataFrame, picked: Mapping[str, tuple[list[str], list[str]]]
) -> dict[tuple[str, str], tuple[Preview, str | None]]:
    spark = suite.lake.spark
    names = [(task, query_id) for task, both in picked.items() for query_id in chain(*both)]
    wanted = F.broadcast(spark.createDataFrame(names, "task string, query_id string"))
    rows = queries.join(wanted, ["task", "query_id"])
    rows = rows.withColumn("id", F.concat_ws(_KEY, "task", "query_id"))
    told = {
        (row.task, row.query_id): row.instruction
        for row in rows.select("task", "query_id", "instruction").collect()
    }
    small = previews(rows, reading=suite.reading)
    return {name: (small[_KEY.join(name)], told[name]) for name in told}


def _documents(suite: Suite, ids: set[str]) -> dict[str, Preview]:
    spark = suite.lake.spark
    wanted = F.broadcast(spark.createDataFrame([(name,) for name in sorted(ids)], "id string"))
    return previews(suite.documents().join(wanted, "id"), reading=suite.reading)
