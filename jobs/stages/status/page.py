"""The page of a lake's state: what is shown of its history and of its rejected rows."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.lake.lake import Lake
from jobs.reports.lake_status import LakeStatus
from jobs.reports.status_page import RejectedRow, write_status_page
from jobs.stages.refresh.outlook import Outlook
from jobs.stages.search.report import source_previews
from jobs.stages.status.history import read_history

RUNS_SHOWN = 30
REJECTED_SHOWN = 24
_OF_STATUS = 8  # so that one common reason does not hide the others


def write_page(
    path: str | Path,
    lake: Lake,
    *,
    status: LakeStatus,
    outlook: Outlook | None,
    max_image_bytes: int,
) -> Path:
    """Write it; returns the path. Pictures of rejected rows come from the source table, as far as it can be read."""
    rejected: list[RejectedRow] = []
    if status.release is not None and any(name != "ok" for name in status.rows):
        model_id = status.release.model_id
        rejected = _rejected(lake, model_id=model_id, max_image_bytes=max_image_bytes)
    return write_status_page(
        path,
        lake=lake.root,
        status=status,
        history=read_history(lake),
        rejected=rejected,
        more=outlook.lines() if outlook else (),
    )


def _rejected(lake: Lake, *, model_id: str, max_image_bytes: int) -> list[RejectedRow]:
    """Some of the newest of every status."""
    bad = lake.read("vectors").where((F.col("model_id") == model_id) & (F.col("status") != "ok"))
    newest = Window.partitionBy("status").orderBy(F.col("embedded_at").desc(), "id")
    numbered = bad.select("id", "status", "error", F.row_number().over(newest).alias("number"))
    few = numbered.where(F.col("number") <= _OF_STATUS).orderBy("number", "status")
    rows = few.limit(REJECTED_SHOWN).collect()
    found = source_previews(
        lake, {row.id for row in rows}, model_id=model_id, max_image_bytes=max_image_bytes
    )
    none = (None, None)
    return [RejectedRow(row.id, row.status, row.error, *found.get(row.id, none)) for row in rows]
