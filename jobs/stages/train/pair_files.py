"""The pairs of a training as Arrow files; Spark reads the tables, so that names, versions and URIs work as everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import pyarrow.dataset as ds
from pyspark.sql import DataFrame, SparkSession

from jobs.lake.lake import read_table
from jobs.settings.settings import Settings
from jobs.stages.embed.history import TableState
from jobs.stages.evaluate.data.pairs import task_pairs
from jobs.stages.evaluate.data.tasks import load_tasks
from udfs import storage
from udfs.training.data import write_pairs

Made = tuple[DataFrame, object]  # a frame, and what tells its content from all that it was before


@dataclass
class DataFolder:
    """A local folder of training data, each file named by what it was made from: a table that has changed makes another
    one. A file that is there is kept, as Spark promises no order of rows and a step takes rows by their number.

    `written` are the files that trainings of this process have asked for.
    """

    path: str
    written: dict[str, str] = field(default_factory=dict)

    def pairs(self, spark: SparkSession, settings: Settings) -> str | None:
        """Arrow file of the pairs table and of the judgements of the tasks' train split; None where there are none."""
        train = settings.train

        def frames() -> Iterator[Made]:
            if train.pairs:
                yield _table(spark, train.pairs)
            if train.tasks:
                asked = settings.evaluate.model_copy(
                    update={"tasks": train.tasks, "split": "train"}
                )
                judged = task_pairs(spark, load_tasks(asked))
                yield judged, _files(judged)

        if not (train.pairs or train.tasks):
            return None
        return self._write(frames, "pairs", f"{train.pairs}/{train.tasks}/{settings.evaluate}")

    def validation(self, spark: SparkSession, settings: Settings) -> str | None:
        """Arrow file of the validation table, or None."""
        table = settings.train.validation
        if not table:
            return None
        return self._write(lambda: iter([_table(spark, table)]), "validation", table)

    def _write(self, made: Callable[[], Iterator[Made]], kind: str, asked: str) -> str:
        """The file of frames; looked at once for what is `asked` of it."""
        key = f"{kind} {asked}"
        if key not in self.written:
            frames, states = zip(*made(), strict=True)
            file = f"{self.path}/{kind}-{_digest(repr([asked, *states]))}.arrow"
            if not Path(file).is_file():
                frame = reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), frames)
                parts = Path(f"{file}.parts")
                frame.write.mode("overwrite").parquet(parts.as_uri())
                files = sorted(str(part) for part in parts.glob("*.parquet"))
                write_pairs(file, ds.dataset(files, format="parquet").to_batches())
            self.written[key] = file
        return self.written[key]


def _table(spark: SparkSession, table: str) -> Made:
    if table.endswith(".parquet"):
        frame = read_pairs(spark, table)
        return frame, _files(frame)
    state = TableState.read(spark, table)
    return read_pairs(spark, table, version=state.version), (state.table_id, state.version)


def _files(frame: DataFrame) -> object:
    """What a frame is read from, with the sizes and times of files."""
    return [(file, storage.stat(file)) for file in sorted(frame.inputFiles())]


def read_pairs(spark: SparkSession, table: str, *, version: int | None = None) -> DataFrame:
    """A table of pairs: Delta by name or path, at a version if one is given, or a Parquet path."""
    if table.endswith(".parquet"):
        return spark.read.parquet(table)
    return read_table(spark, table, version=version)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
