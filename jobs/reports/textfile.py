"""Figures of a lake for Prometheus: a text file that node-exporter's textfile collector reads.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format, without times, which that collector
refuses. Names end in their unit, by https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pyspark.sql import functions as F

from jobs.lake.lake import Lake
from jobs.lake.run_events import read_runs
from jobs.reports.lake_status import LakeStatus
from udfs.errors import SettingsError

_MODE = 0o644  # node-exporter runs as another user


@dataclass
class Metric:
    """A metric `gme_lake_<name>` with its samples: (labels, value)."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)

    def add(self, value: float | datetime | None, **labels: str) -> None:
        """Add a sample; a time as seconds since 1970; None is no sample."""
        if value is not None:
            number = value.timestamp() if isinstance(value, datetime) else float(value)
            self.samples.append((labels, number))


# Figures of a run's metrics, as `runs` has them, and the name that monitoring knows them by.
_OF_RUNS = {
    "tokens_per_second": ("run_tokens_per_second", "Tokens that one model embedded in a second."),
    "model_busy": ("run_model_busy_ratio", "Share of the models' time in which they worked."),
    "batch_fill": ("run_batch_fill_ratio", "Share of the model batches' token budgets in use."),
    "model_loads": ("run_model_loads", "Models loaded for the run."),
    "bytes_read": ("run_read_bytes", "Bytes of texts and pictures, or of indexed vectors."),
    "bytes_written": ("run_written_bytes", "Bytes of vectors or index files."),
    "cost": ("run_cost", "Model time at plan.price_per_hour."),
}


def lake_metrics(lake: Lake, status: LakeStatus) -> list[Metric]:
    """All metrics of a lake: its release by `status`, and its runs by job. Each sample has the lake's root as a label."""
    metrics = [*_of_release(status), *_of_runs(lake)]
    for metric in metrics:
        metric.samples = [
            ({"lake": lake.root, **labels}, value) for labels, value in metric.samples
        ]
    return metrics


def require_folder(path: str | Path) -> None:
    """Raise SettingsError where a textfile cannot be made: before the work, not after it."""
    folder = Path(path).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "may not be written to" if folder.is_dir() else "is no folder"
        raise SettingsError(
            f"metrics.textfile={path}: {folder} {what}; make one that this user may write to, and give it to "
            "node-exporter as --collector.textfile.directory"
        )


def write_textfile(path: str | Path, metrics: Iterable[Metric]) -> Path:
    """Replace a file at once, so that the collector never reads half of one. SettingsError as `require_folder`."""
    require_folder(path)
    target = Path(path)
    # Its name does not end in .prom: the collector leaves it alone.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(render(metrics))
        Path(name).chmod(_MODE)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def render(metrics: Iterable[Metric]) -> str:
    """The text of metrics that have samples."""
    lines = []
    for metric in metrics:
        if not metric.samples:
            continue
        name = f"gme_lake_{metric.name}"
        lines += [f"# HELP {name} {_escape(metric.help)}", f"# TYPE {name} {metric.kind}"]
        for labels, value in metric.samples:
            listed = ",".join(f'{key}="{_quote(label)}"' for key, label in labels.items())
            lines.append(f"{name}{{{listed}}} {value!r}")
    return "".join(f"{line}\n" for line in lines)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quote(text: str) -> str:
    # Lone surrogates have no form in UTF-8.
    whole = text.encode("utf-8", "replace").decode()
    return _escape(whole).replace('"', r"\"")


def _of_release(status: LakeStatus) -> list[Metric]:
    release, index = status.release, status.index
    number = Metric("release_id", "gauge", "Number of the current release.")
    info = Metric("release_info", "gauge", "The current release: 1, with its model and index.")
    released = Metric("release_timestamp_seconds", "gauge", "When the release was made.")
    rows = Metric("rows", "gauge", "Rows of the released model by status.")
    coverage = Metric("coverage_ratio", "gauge", "Share of these rows that have a vector.")
    built = Metric("index_built_timestamp_seconds", "gauge", "When the release's index was built.")
    missing = Metric("index_missing_rows", "gauge", "Rows with a vector that are not in the index.")
    gone = Metric("index_gone_rows", "gauge", "Rows in the index that no longer have a vector.")
    drift = Metric(
        "index_drift_ratio",
        "gauge",
        "Loss of missing rows by its quantizer over that of trained ones.",
    )
    gate = Metric("gate_passed", "gauge", "Whether the last decision of the gate was to pass.")
    if release is not None:
        number.add(release.release_id)
        info.add(
            1,
            model_id=release.model_id,
            model_version=release.model_version or "",
            index_id=release.index_id or "",
        )
        released.add(release.released_at)
        for name, count in status.rows.items():
            rows.add(count, status=name)
        coverage.add(status.coverage)
    if index is not None:
        built.add(index.built_at)
        missing.add(index.age.missing)
        gone.add(index.age.gone)
        drift.add(index.drift)
    if status.decision is not None:
        gate.add(status.decision.passed)
    return [number, info, released, rows, coverage, built, missing, gone, drift, gate]


def _of_runs(lake: Lake) -> list[Metric]:
    """Runs counted by job and status, and the figures of each job's last run that has ended."""
    runs = Metric("runs_total", "counter", "Runs by job and status.")
    succeeded = Metric("last_success_timestamp_seconds", "gauge", "When a run last succeeded.")
    ended = Metric("last_run_timestamp_seconds", "gauge", "When the job's last run ended.")
    rows = Metric("run_rows", "gauge", "Rows of the job's last run by outcome.")
    seconds = Metric("run_seconds", "gauge", "Seconds of the job's last run by stage.")
    figures = {key: Metric(name, "gauge", said) for key, (name, said) in _OF_RUNS.items()}
    last: dict[str, Any] = {}
    for row in _runs_by_status(lake):
        runs.add(row.runs, job=row.job, status=row.status)
        if row.status == "succeeded":
            succeeded.add(row.ended_at, job=row.job)
        if row.ended_at is not None and (
            row.job not in last or row.ended_at > last[row.job].ended_at
        ):
            last[row.job] = row
    for job, row in sorted(last.items()):
        ended.add(row.ended_at, job=job)
        for name, count in sorted((row.last["counts"] or {}).items()):
            rows.add(count, job=job, outcome=name)
        for name, spent in sorted((row.last["seconds"] or {}).items()):
            seconds.add(spent, job=job, stage=name)
        for key, metric in figures.items():
            metric.add((row.last["metrics"] or {}).get(key), job=job)
    return [runs, succeeded, ended, rows, seconds, *figures.values()]


def _runs_by_status(lake: Lake) -> list[Any]:
    every = read_runs(lake, "job", "status", "ended_at", "counts", "seconds", "metrics")
    newest = F.max_by(F.struct("counts", "seconds", "metrics"), "ended_at").alias("last")
    counted: Any = F.count(F.lit(1)).alias("runs")
    grouped = every.groupBy("job", "status").agg(
        counted, F.max("ended_at").alias("ended_at"), newest
    )
    return list(grouped.orderBy("job", "status").collect())
