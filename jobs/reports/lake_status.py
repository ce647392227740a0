"""The state of a lake as its operators read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from pyspark.sql import functions as F
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from jobs.lake.gates import Decision, last_decision
from jobs.lake.indexes import Age, find_index, index_age, whole_manifest
from jobs.lake.lake import Lake, cause
from jobs.reports.release_table import ListedRelease, list_releases
from jobs.reports.terminal import open_console
from udfs.errors import IndexDataError
from udfs.gme.canaries.environment import UNCHECKED, format_environment

_RUNS = 8


@dataclass(frozen=True)
class ListedRun:
    """A run as it ended, or as far as it is known; `rows` are its counts."""

    job: str
    started_at: datetime
    status: str
    seconds: float | None
    rows: Mapping[str, int]
    error: str | None


@dataclass(frozen=True)
class LakeStatus:
    """What there is: `rows` of the release's model by status, `age` of its index or why it cannot be told.

    `environment` is what the last run that loaded the release's model made vectors in; empty where no run has said so.
    """

    release: ListedRelease | None
    rows: Mapping[str, int]
    environment: Mapping[str, str]
    age: Age | None
    index_error: str | None
    decision: Decision | None
    runs: Sequence[ListedRun]


def read_status(lake: Lake) -> LakeStatus:
    """Read it from the lake's tables."""
    release = next(iter(list_releases(lake, limit=1)), None)
    rows: dict[str, int] = {}
    environment: dict[str, str] = {}
    age, error = None, None
    if release is not None:
        of_model = lake.read("vectors").where(F.col("model_id") == release.model_id)
        counted = of_model.groupBy("status").count().orderBy("status").collect()
        rows = {row.status: int(row["count"]) for row in counted}
        environment = _last_environment(lake, release.model_id)
        age, error = _index_age(lake, release)
    return LakeStatus(release, rows, environment, age, error, last_decision(lake), _last_runs(lake))


def print_status(status: LakeStatus, *, file: TextIO) -> None:
    """Print it: lines about the release, then the last runs as a table."""
    console = open_console(file)
    for line in _lines(status):
        console.print(Text(line), soft_wrap=True)
    if not status.runs:
        return
    table = Table(box=SIMPLE_HEAD)
    for name in ("run, UTC", "job", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("rows, or what went wrong")
    for run in status.runs:
        rows = {name: n for name, n in run.rows.items() if n and not name.startswith("planned.")}
        said = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in rows.items())
        table.add_row(
            f"{run.started_at:%Y-%m-%d %H:%M}",
            run.job.replace("_", "-"),
            run.status,
            "" if run.seconds is None else f"{run.seconds:,.1f}",
            Text(run.error or said, overflow="ellipsis", no_wrap=True),
        )
    console.print(table)


def _lines(status: LakeStatus) -> list[str]:
    release = status.release
    if release is None:
        lines = ["nothing is released yet; gme-lake refresh-lake makes the first release"]
    else:
        named = f"{release.model_name} {release.model_version}" if release.model_name else "model"
        total, good = sum(status.rows.values()), status.rows.get("ok", 0)
        rejected = ", ".join(f"{n:,} {name}" for name, n in status.rows.items() if name != "ok")
        lines = [
            f"release {release.release_id} of {release.released_at:%Y-%m-%d %H:%M} UTC: {named} ({release.model_id}), "
            f"index {release.index_id}",
            f"vectors: {good:,} of {total:,} rows"
            + (f"; rejected: {rejected}" if rejected else ""),
        ]
        if status.environment:
            lines.append(_environment_line(status.environment))
        if status.age is not None:
            lines.append(
                f"index: {status.age.missing:,} of {status.age.live:,} rows are not in it and searched exactly, "
                f"{status.age.gone:,} of its rows are gone"
            )
        elif status.index_error is not None:
            lines.append(f"index: {status.index_error}")
    if status.decision is not None:
        lines += _decision_lines(status.decision)
    return lines


def _environment_line(environment: Mapping[str, str]) -> str:
    """What loads of the model were checked by, and made with."""
    told = dict(environment)
    cosine = told.pop("canary_cosine", UNCHECKED)
    checked = (
        "the model has no canaries, and what its loads serve is not checked (register-model with model.trial=true)"
        if cosine == UNCHECKED
        else f"canaries: lowest cosine {cosine}"
    )
    return f"{checked}; last loaded with {format_environment(told)}"


def _decision_lines(decision: Decision) -> list[str]:
    what = "passed" if decision.passed else "released by force" if decision.forced else "refused"
    of = f"index {decision.index_id}" if decision.index_id else f"model {decision.model_id}"
    return [f"gate: {of} {what}", *(f"  {check.said}" for check in decision.checks)]


def _index_age(lake: Lake, release: ListedRelease) -> tuple[Age | None, str | None]:
    row = None if release.index_id is None else find_index(lake, release.index_id)
    if row is None:
        return None, f"{release.index_id} is no longer in {lake.name('indexes')}"
    try:
        return index_age(lake, whole_manifest(lake, row)), None
    except IndexDataError as error:
        return None, cause(error)


def _last_environment(lake: Lake, model_id: str) -> dict[str, str]:
    events = lake.read("run_events").where(F.col("model_id") == model_id)
    newest = events.where("environment IS NOT NULL").orderBy("beat_at", ascending=False)
    row = newest.select("environment").first()
    return row.environment if row else {}


def _last_runs(lake: Lake) -> list[ListedRun]:
    events = lake.read("run_events")
    newest = F.max_by(
        F.struct("job", "started_at", "status", "counts", "seconds", "error"),
        F.struct(F.col("ended_at").isNotNull(), F.coalesce("beat_at", "started_at")),
    ).alias("run")
    rows = events.groupBy("run_id").agg(newest).select("run.*")
    return [
        ListedRun(
            row.job,
            # PySpark hands times over in the time zone of this process.
            row.started_at.astimezone(UTC),
            row.status,
            (row.seconds or {}).get("total"),
            row.counts or {},
            row.error and row.error.splitlines()[0],
        )
        for row in rows.orderBy("started_at", ascending=False).head(_RUNS)
    ]
