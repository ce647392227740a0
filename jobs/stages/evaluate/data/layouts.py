"""The data of a task, from whichever layout it lies in."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import SparkSession

from jobs.stages.evaluate.data.beir import read_beir
from jobs.stages.evaluate.data.catalogue import read_catalogue
from jobs.stages.evaluate.data.drawn import read_drawn
from jobs.stages.evaluate.data.mbeir import read_mbeir
from jobs.stages.evaluate.data.tasks import EvaluationTask, TaskData

_READERS: dict[str, Callable[[SparkSession, EvaluationTask], TaskData]] = {
    "catalogue": read_catalogue,
    "beir": read_beir,
    "mbeir": read_mbeir,
    "drawn": read_drawn,
}


def read_task(spark: SparkSession, task: EvaluationTask) -> TaskData:
    """Documents, queries and judgements of a task; nothing is read before they are. Raises LakeError."""
    return _READERS[task.layout](spark, task)
