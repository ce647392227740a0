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

from jobs.lake.claims import LIFE, may_work
from jobs.lake.gates import Decision, read_decisions
from jobs.lake.indexes import Age, find_index, index_age, index_drift, whole_manifest
from jobs.lake.lake import Lake, cause
from jobs.lake.run_events import read_runs
from jobs.reports.release_table import ListedRelease, list_releases
from jobs.reports.terminal import open_console
from udfs.errors import IndexDataError
from udfs.gme.canaries.environment import UNCHECKED, format_environment

RUNS = 8  # that the terminal shows


@dataclass(frozen=True)
class ListedRun:
    """A run as it ended, or as far as it is known; `rows` are its counts, `metrics` its figures that are no rows."""

    job: str
    started_at: datetime
    status: str
    seconds: float | None
    rows: Mapping[str, int]
    metrics: Mapping[str, float]
    error: str | None


@dataclass(frozen=True)
class IndexState:
    """The release's index beside `vectors` now. `drift`: how many times as much its quantizer loses of rows that it lacks
    as of those it was trained on, None where there are none or nothing was trained. `added`: rows that were added to
    the whole index `base`.
    """

    built_at: datetime
    age: Age
    drift: float | None
    base: str | None
    added: int


@dataclass(frozen=True)
class LakeStatus:
    """What there is: `rows` of the release's model by status, `index` of the release or why it cannot be told.

    `environment` is what the last run that loaded the release's model made vectors in; empty where no run has said so.
    """

    release: ListedRelease | None
    rows: Mapping[str, int]
    environment: Mapping[str, str]
    index: IndexState | None
    index_error: str | None
    decision: Decision | None
    runs: Sequence[ListedRun]

    @property
    def coverage(self) -> float | None:
        """Share of the model's rows that have a vector; None where there are no rows."""
        total = sum(self.rows.values())
        return self.rows.get("ok", 0) / total if total else None

    def values(self) -> dict[str, object]:
        """The same for programs."""
        index = self.index
        return {
            "release": self.release,
            "rows": self.rows,
            "coverage": self.coverage,
            "age": index and index.age,
            "index_built_at": index and index.built_at,
            "index_drift": index and index.drift,
            "index_base": index and index.base,
            "index_added": index and index.added,
            "index_error": self.index_error,
            "decision": self.decision,
            "runs": self.runs,
        }


def read_status(lake: Lake, *, runs: int = RUNS) -> LakeStatus:
    """Read it from the lake's tables, with the last `runs` runs."""
    release = next(iter(list_releases(lake, limit=1)), None)
    rows: dict[str, int] = {}
    environment: dict[str, str] = {}
    index, error = None, None
    if release is not None:
        of_model = lake.read("vectors").where(F.col("model_id") == release.model_id)
        counted = of_model.groupBy("status").count().orderBy("status").collect()
        rows = {row.status: int(row["count"]) for row in counted}
        environment = _last_environment(lake, release.model_id)
        index, error = _index_state(lake, release)
    decision = next((found for _, found in read_decisions(lake, limit=1)), None)
    return LakeStatus(release, rows, environment, index, error, decision, _last_runs(lake, runs))


def print_status(status: LakeStatus, *, more: Sequence[str] = (), file: TextIO) -> None:
    """Print it: lines about the release, `more` of them, then the last runs as a table."""
    console = open_console(file)
    for line in [*status_lines(status), *more]:
        console.print(Text(line), soft_wrap=True)
    if not status.runs:
        return
    table = Table(box=SIMPLE_HEAD)
    for name in ("run, UTC", "job", "status"):
        table.add_column(name, no_wrap=True)
    for name in ("seconds", "tokens/s", "busy"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("rows, or what went wrong")
    for run in status.runs[:RUNS]:
        table.add_row(
            f"{run.started_at:%Y-%m-%d %H:%M}",
            run.job.replace("_", "-"),
            run.status,
            "" if run.seconds is None else f"{run.seconds:,.1f}",
            figure(run, "tokens_per_second", "{:,.0f}"),
            figure(run, "model_busy", "{:.0%}"),
            Text(run.error or rows_said(run), overflow="ellipsis", no_wrap=True),
        )
    console.print(table)


def rows_said(run: ListedRun) -> str:
    """Rows by outcome, those that there are; not those of a plan."""
    rows = {name: n for name, n in run.rows.items() if n and not name.startswith("planned.")}
    return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in rows.items())


def figure(run: ListedRun, name: str, form: str) -> str:
    """One of the run's metrics in the form given, or nothing."""
    return form.format(run.metrics[name]) if name in run.metrics else ""


def status_lines(status: LakeStatus) -> list[str]:
    """Release, rows, index and gate, in words."""
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
            + (f" ({status.coverage:.1%})" if status.coverage is not None else "")
            + (f"; rejected: {rejected}" if rejected else ""),
        ]
        if status.environment:
            lines.append(_environment_line(status.environment))
        if status.index is not None:
            lines.append(_index_line(status.index))
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


def _index_line(index: IndexState) -> str:
    age = index.age
    said = (
        f"index: {age.missing:,} of {age.live:,} rows are not in it and searched exactly, {age.gone:,} of its rows are "
        f"gone; built {index.built_at:%Y-%m-%d %H:%M} UTC"
    )
    if index.base is not None:
        said += f", {index.added:,} rows added to index {index.base}"
    if index.drift is not None:
        said += (
            f"; drift: its quantizer loses {index.drift:.2f} times as much of the rows that are not in it as of those it "
            "was trained on"
        )
    return said


def _decision_lines(decision: Decision) -> list[str]:
    what = "passed" if decision.passed else "released by force" if decision.forced else "refused"
    of = f"index {decision.index_id}" if decision.index_id else f"model {decision.model_id}"
    return [f"gate: {of} {what}", *(f"  {check.said}" for check in decision.checks)]


def _index_state(lake: Lake, release: ListedRelease) -> tuple[IndexState | None, str | None]:
    row = None if release.index_id is None else find_index(lake, release.index_id)
    if row is None:
        return None, f"{release.index_id} is no longer in {lake.name('indexes')}"
    try:
        manifest = whole_manifest(lake, row)
        age = index_age(lake, manifest)
        drift = index_drift(lake, manifest) if age.missing else None
    except IndexDataError as error:
        return None, cause(error)
    base = manifest.base.index_id if manifest.base else None
    added = sum(shard.rows for shard in manifest.shards) if base else 0
    return IndexState(row.built_at.astimezone(UTC), age, drift, base, added), None


def _last_environment(lake: Lake, model_id: str) -> dict[str, str]:
    events = lake.read("run_events").where(F.col("model_id") == model_id)
    newest = events.where("environment IS NOT NULL").orderBy("beat_at", ascending=False)
    row = newest.select("environment").first()
    return row.environment if row else {}


def _last_runs(lake: Lake, number: int) -> list[ListedRun]:
    columns = ("job", "status", "counts", "seconds", "metrics", "error", *LIFE)
    return [
        ListedRun(
            row.job,
            # PySpark hands times over in the time zone of this process.
            row.started_at.astimezone(UTC),
            # The next run marks it so; here nothing is written.
            "killed" if row.ended_at is None and not may_work(row) else row.status,
            (row.seconds or {}).get("total"),
            row.counts or {},
            row.metrics or {},
            row.error and row.error.splitlines()[0],
        )
        for row in read_runs(lake, *columns).orderBy("started_at", ascending=False).head(number)
    ]
