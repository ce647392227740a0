"""Functions of `udfs` on executors: rows of a frame in, rows with the columns that the function gives out."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, PandasCogroupedOps, SparkSession
from pyspark.sql.pandas.functions import ArrowUDFType, arrow_udf

from jobs.driver.task_errors import clear_task_errors
from udfs.columns import Columns
from udfs.errors import GmeLakeError


@dataclass(frozen=True)
class TaskRows:
    """Rows that tasks make. No task runs before one of the methods is called; they raise the GmeLakeError of a task.

    Whoever reads `frame` itself does so in a block of `clear_task_errors`.
    """

    frame: DataFrame

    def rows(self) -> list[Any]:
        """All rows."""
        with clear_task_errors():
            return self.frame.collect()

    def table(self) -> pa.Table:
        """All rows in Arrow's columns."""
        with clear_task_errors():
            return self.frame.toArrow()

    def one_row(self, missing: GmeLakeError) -> Any:
        """The first row; `missing` is raised where there is none."""
        with clear_task_errors():
            row = self.frame.first()
        if row is None:
            raise missing
        return row

    def write(self, folder: str) -> DataFrame:
        """The rows, written to Parquet files in `folder`, whose contents they replace, and read from there."""
        with clear_task_errors():
            self.frame.write.mode("overwrite").parquet(folder)
        return self.frame.sparkSession.read.parquet(folder)


def on_executors(
    rows: DataFrame | PandasCogroupedOps, function: Callable[..., Any], **keywords: Any
) -> TaskRows:
    """The rows that `function` makes of Arrow batches of `rows`, or of each pair of groups of two frames.

    `keywords` go to every task with it. Raises TypeError for a function that workers would not find by its name.
    """
    columns = _require_named(function)
    run = functools.partial(function, **keywords)
    if isinstance(rows, DataFrame):
        return TaskRows(rows.mapInArrow(run, columns.ddl))
    return TaskRows(rows.applyInArrow(run, columns.ddl))


def register_in_sql(
    spark: SparkSession, name: str, function: Callable[..., Any], **keywords: Any
) -> None:
    """Make a function of Arrow arrays known to the SQL of a session; it gives a struct of its columns for each row.

    `keywords` go to every task with it. Raises TypeError for a function that workers would not find by its name.
    """
    columns = _require_named(function)
    run = functools.partial(function, **keywords)
    # Hints are preferred, which a function with keywords cannot give.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It is preferred to specify type hints", UserWarning)
        made = arrow_udf(run, returnType=columns.ddl, functionType=ArrowUDFType.SCALAR)
    spark.udf.register(name, made)


def _require_named(function: Callable[..., Any]) -> Columns:
    """The columns that a function gives. What is pickled by value would be new in every task, and its caches empty."""
    module, name = function.__module__, getattr(function, "__qualname__", repr(function))
    found = getattr(sys.modules.get(module), name, None)
    columns = getattr(function, "gives", None)
    if module.startswith("udfs.") and found is function and isinstance(columns, Columns):
        return columns
    raise TypeError(
        f"Spark was to be handed {module}.{name}; it is handed top-level functions of udfs that are declared with "
        "@gives(columns)"
    )
