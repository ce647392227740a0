"""What a run leaves out, and why: gathered from the steps, written once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake, now
from jobs.lake.runs import Run

_GIVEN = ("direction", "domain", "detail", "request_id")


@dataclass
class Rejects:
    """Frames of rows that were left out, each with passage_id and reason, and what else is known of them."""

    lake: Lake
    run: Run
    frames: list[DataFrame] = field(default_factory=list)

    def add(self, step: str, rows: DataFrame) -> None:
        """Rows with passage_id and reason; direction, domain, detail and request_id where they have them."""
        given = (
            F.col(name) if name in rows.columns else F.lit(None).cast("string").alias(name)
            for name in _GIVEN
        )
        self.frames.append(rows.select("passage_id", F.lit(step).alias("step"), "reason", *given))

    def write(self, folder: str) -> DataFrame:
        """Append all of them to the table of the lake; the same rows, by reason to be counted."""
        rows = reduce(lambda one, other: one.unionByName(other), self.frames)
        with clear_task_errors():
            rows.write.mode("overwrite").parquet(folder)
        rows = self.lake.spark.read.parquet(folder)
        made = rows.withColumns({"run_id": F.lit(self.run.run_id), "rejected_at": F.lit(now())})
        names = self.lake.row_schema("synthesis_rejects").names
        self.run.begin()
        writer = made.select(*names).coalesce(1).write.format("delta").mode("append")
        writer.saveAsTable(self.lake.name("synthesis_rejects"))
        return rows
