"""Tasks over held-out products of the drawn catalogue; executors draw the pictures."""

from __future__ import annotations

from pyspark.sql import SparkSession

from jobs.driver.on_executors import on_executors
from jobs.stages.evaluate.data.tasks import EvaluationTask, TaskData
from udfs.drawing.tasks import (
    CORPORA,
    PAIRS,
    DrawnTaskSpec,
    document_batches,
    document_count,
    judgement_batches,
    query_batches,
    query_count,
)
from udfs.errors import LakeError

_FILES = 4


def read_drawn(spark: SparkSession, task: EvaluationTask) -> TaskData:
    """The drawn task of the pair t2i, i2i or it2i; `corpus` is `held_out` or `with_neighbours`.

    A document is right for a query where it shows the same product. Raises LakeError for another pair or corpus, and
    for the train split: a training that took its pairs from here would see what it is judged on.
    """
    if task.pair not in PAIRS or task.corpus not in CORPORA:
        raise LakeError(
            f"task {task.name}: drawn tasks have the pairs {', '.join(PAIRS)} and the corpora {', '.join(CORPORA)}; "
            f"asked for {task.pair} over {task.corpus}"
        )
    if task.split != "test":
        raise LakeError(
            f"task {task.name}: drawn tasks ask for held-out products alone; there is no split {task.split!r}. Train on "
            "drawn products with train.drawn=true, or on pairs of gme-lake draw-pairs"
        )
    spec = DrawnTaskSpec(pair=task.pair, corpus=task.corpus, instruction=task.instruction)
    documents = spark.range(0, document_count(spec), 1, _FILES)
    asked = spark.range(0, query_count(spec), 1, _FILES)
    return TaskData(
        on_executors(documents, document_batches, spec=spec).frame,
        on_executors(asked, query_batches, spec=spec).frame,
        on_executors(asked, judgement_batches, spec=spec).frame,
    )
