"""The pairs of a training as Arrow files; Spark reads the tables, so that names, versions and URIs work as everywhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import pyarrow.dataset as ds
from pyspark.sql import DataFrame, SparkSession

from jobs.lake.lake import read_table
from jobs.settings.settings import Settings
from jobs.stages.evaluate.data.pairs import task_pairs
from jobs.stages.evaluate.data.tasks import load_tasks
from udfs.training.data import write_pairs


@dataclass
class DataFolder:
    """A local folder of training data. Trainings that share one write each table once; `written` says which."""

    path: str
    written: dict[str, str] = field(default_factory=dict)

    def pairs(self, spark: SparkSession, settings: Settings) -> str | None:
        """Arrow file of the pairs table and of the judgements of the tasks' train split; None where there are none."""
        train = settings.train
        frames = [read_pairs(spark, train.pairs)] if train.pairs else []
        if train.tasks:
            asked = settings.evaluate.model_copy(update={"tasks": train.tasks, "split": "train"})
            frames.append(task_pairs(spark, load_tasks(asked)))
        if not frames:
            return None
        made_from = f"{train.pairs}/{train.tasks}/{settings.evaluate}"
        return self._written(frames, f"pairs-{_digest(made_from)}")

    def validation(self, spark: SparkSession, settings: Settings) -> str | None:
        """Arrow file of the validation table, or None."""
        table = settings.train.validation
        if not table:
            return None
        return self._written([read_pairs(spark, table)], f"validation-{_digest(table)}")

    def _written(self, frames: list[DataFrame], name: str) -> str:
        if name not in self.written:
            frame = reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), frames)
            file = f"{self.path}/{name}.arrow"
            parts = Path(f"{file}.parts")
            frame.write.mode("overwrite").parquet(parts.as_uri())
            files = sorted(str(part) for part in parts.glob("*.parquet"))
            write_pairs(file, ds.dataset(files, format="parquet").to_batches())
            self.written[name] = file
        return self.written[name]


def read_pairs(spark: SparkSession, table: str, *, version: int | None = None) -> DataFrame:
    """A table of pairs: Delta by name or path, at a version if one is given, or a Parquet path."""
    if table.endswith(".parquet"):
        return spark.read.parquet(table)
    return read_table(spark, table, version=version)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
