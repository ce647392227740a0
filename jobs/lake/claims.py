"""A claim: one run at a time does what the claim names. It is a number in `run_events`, kept alive by beats.

Delta refuses a second append with the same (application id, number), so whoever finds its own row under the next free
number holds the claim. It ends with the run's last event, or when its holder is dead: a process of this machine that is
gone, or a run elsewhere whose beats have stopped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column, Row
from pyspark.sql import functions as F

from jobs.lake.conflicts import is_conflict
from jobs.lake.holder import Holder
from jobs.lake.lake import Lake, now
from jobs.lake.run_events import collect_runs, read_runs
from jobs.lake.runs import Run
from udfs import storage
from udfs.errors import ActiveRunError

log = logging.getLogger("gme_lake")

BEATS = 5  # in the time after which a silent holder is taken for dead
PURGE = "purge_ids"  # the job beside which no other may work
_POLL_SECONDS = 5.0
_SILENT_SECONDS = 24 * 3600.0  # of a run that does not beat
_SILENT_CLAIM_SECONDS = 300.0
LIFE = ("started_at", "holder", "beat_at", "ended_at")  # columns that tell whether a run may work
_held: set[str] = set()  # run_ids of this process that hold a claim


class Claim:
    """What the holder of a claim asks before every commit."""

    def __init__(self, run: Run, *, name: str, timeout: float) -> None:
        self._run, self._name, self._pause = run, name, timeout / BEATS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="gme-lake-beat", daemon=True)

    def require(self) -> None:
        """Raise ActiveRunError where another run has taken the claim, because this one was silent for too long."""
        newest = max(_claimed_runs(self._run.lake, self._name), key=lambda row: row.claim)
        if newest.claim != self._run.claim:
            raise _taken(self._name, newest)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; returns when the last beat is recorded."""
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._pause):
            try:
                self._run.beat()
            except (
                Exception
            ) as error:  # whatever Spark raises: the next beat may succeed, and require() tells
                log.warning("a beat of run %s was not recorded: %.200s", self._run.run_id, error)


@contextmanager
def claim(run: Run, *, name: str, timeout: float) -> Iterator[Claim]:
    """Hold the claim `name`, `job` or `job/model_id`, of the run's lake for a block; records the run as begun.

    A holder of another machine is watched for up to `timeout` seconds: if it beats meanwhile it lives, if not it is
    dead. The claim's runs that were killed are marked so. Raises ActiveRunError where another run holds the claim, or
    purges ids, ValueError where the run has written something already: what it writes is to be written under the claim.
    """
    if run.recorded:
        raise ValueError(f"run {run.run_id} wrote before it took the claim {name}")
    newest = _newest(_claimed_runs(run.lake, name))
    _require_dead(run.lake, name, newest, timeout=timeout)
    run.claim = (newest.claim if newest is not None else 0) + 1
    _held.add(run.run_id)
    try:
        others, purges = _take(run, name)
        if name != PURGE:  # asked after the run is recorded, as by require_no_purge
            _require_dead(run.lake, PURGE, _newest(purges), timeout=timeout)
        _mark_killed_runs(run, others)
        held = Claim(run, name=name, timeout=timeout)
        held.start()
        try:
            yield held
        finally:
            held.stop()
    finally:
        _held.discard(run.run_id)


def _take(run: Run, name: str) -> tuple[list[ClaimedRun], list[ClaimedRun]]:
    """Record the run as begun under its claim's number; the claim's other runs, and those that purge.

    Raises ActiveRunError where another one was faster.
    """
    try:
        run.begin(txn=(f"gme-lake/claim/{name}", run.claim or 0))
    except Exception as error:
        if not is_conflict(error):
            raise
    claimed, purges = _read_claims(run.lake, name, PURGE)
    first = [row for row in claimed if row.claim == run.claim]
    if [row.run_id for row in first] != [run.run_id]:
        run.recorded, run.claim = False, None
        raise _taken(name, first[0] if first else None)
    return [row for row in claimed if row.run_id != run.run_id], purges


def require_no_purge(run: Run, *, timeout: float = _SILENT_CLAIM_SECONDS) -> None:
    """Raise ActiveRunError beside a purge: what this run has read may hold what is purged.

    A purge records itself before it looks for other runs, and they record themselves before they ask this: of two that
    begin at the same moment one at least sees the other.
    """
    if run.job == PURGE:
        return
    _require_dead(run.lake, PURGE, _newest(_claimed_runs(run.lake, PURGE)), timeout=timeout)


def find_active_runs(lake: Lake, *, but: str, timeout: float) -> list[str]:
    """Runs that have begun, have not ended and may still work, all `but` the caller's, in words.

    One under a claim on another machine counts for `timeout` seconds after its last beat; else as of `may_work`.
    """
    begun = collect_runs(lake, "job", "claim", *LIFE, where=F.col("run_id") != but)
    found = []
    for row in sorted(begun, key=lambda row: row.started_at):
        if may_work(row, silent=_SILENT_SECONDS if row.claim is None else timeout):
            job = row.job.replace("_", "-")
            found.append(f"run {row.run_id} of {job}, begun {row.started_at:%Y-%m-%d %H:%M}")
    return found


def may_work(row: Row, *, silent: float = _SILENT_SECONDS) -> bool:
    """Whether a run, with the columns LIFE, may still work.

    Of this machine's runs it is known whether their process lives. One of another machine may for `silent` seconds after
    it was last heard of: without a claim it does not beat.
    """
    if row.ended_at is not None:
        return False
    holder = Holder.parse(row.holder) if row.holder else None
    if holder is not None and holder.is_here:
        return not holder.is_gone
    last: datetime = row.beat_at or row.started_at
    return now().timestamp() - last.timestamp() < silent


def _mark_killed_runs(run: Run, others: list[ClaimedRun]) -> None:
    """Mark those of a claim's other runs that have begun and never ended as killed, for `run`, which holds it.

    So are the steps that a dead process had begun beside. No other run of the claim can be alive.
    """
    begun = [row for row in others if not row.ended]
    if not begun:
        return
    dead = F.col("run_id").isin([row.run_id for row in begun])
    gone = {row.holder for row in begun} - {str(Holder.this())}
    for row in _mark_killed(run, dead | F.col("holder").isin(sorted(gone))):
        _remove_staging(run.lake, row)


def mark_dead_runs(run: Run) -> None:
    """Mark the runs of any job that cannot be at work any more as killed: another run of their claim may never come.

    Beside a purge nothing is marked: a row that is written again may hold what is being purged.
    """
    begun = read_runs(run.lake, "run_id", "job", *LIFE).where("ended_at IS NULL").collect()
    dead = [row.run_id for row in begun if not may_work(row)]
    if not dead or any(row.job == PURGE and may_work(row) for row in begun):
        return
    for row in _mark_killed(run, F.col("run_id").isin(dead)):
        if row.holder and Holder.parse(row.holder).is_gone:  # of the others only hours are known
            _remove_staging(run.lake, row)


def _mark_killed(run: Run, where: Column) -> list[Row]:
    """End the runs that `where` is true of in `run_events` and in MLflow; returns them as they last were."""
    columns = [name for name in run.lake.row_schema("run_events").names if name != "run_id"]
    dead = [row for row in collect_runs(run.lake, *columns, where=where) if row.ended_at is None]
    if not dead:
        return []
    words = "the run was killed, or its driver was lost"
    last = {row.run_id: row.beat_at or row.started_at for row in dead}
    ended = [row.asDict() | {"status": "killed", "error": words} for row in dead]
    run.lake.append("run_events", [row | {"ended_at": last[row["run_id"]]} for row in ended])
    log.warning("earlier runs were killed and are marked so: %s", ", ".join(last))
    for row in dead:
        if run.registry is not None and row.mlflow_run_id is not None:
            run.registry.end_killed_run(row.mlflow_run_id, at=last[row.run_id])
    return dead


def _remove_staging(lake: Lake, row: Row) -> None:
    storage.remove_folder(lake.folder("staging", row.run_id))


@dataclass(frozen=True)
class ClaimedRun:
    """A run under a claim: its last beat, and whether it has ended."""

    run_id: str
    claim: int
    holder: str
    beat: datetime
    ended: bool


def _claimed_runs(lake: Lake, name: str) -> list[ClaimedRun]:
    """Every run under a claim."""
    (claimed,) = _read_claims(lake, name)
    return claimed


def _read_claims(lake: Lake, *names: str) -> list[list[ClaimedRun]]:
    """Every run under each of some claims, by one look at the table."""
    parts = [name.partition("/") for name in names]
    where = F.lit(False)
    for job, _, model_id in parts:
        of_job = F.col("job") == job
        where |= of_job & (F.col("model_id") == model_id) if model_id else of_job
    columns = ("job", "model_id", "claim", "holder", "beat_at", "ended_at")
    rows = collect_runs(lake, *columns, where=where & F.col("claim").isNotNull())
    return [
        [
            ClaimedRun(row.run_id, row.claim, row.holder, row.beat_at, row.ended_at is not None)
            for row in rows
            if row.job == job and model_id in ("", row.model_id)
        ]
        for job, _, model_id in parts
    ]


def _newest(claimed: list[ClaimedRun]) -> ClaimedRun | None:
    return max(claimed, key=lambda row: row.claim, default=None)


def _require_dead(lake: Lake, name: str, newest: ClaimedRun | None, *, timeout: float) -> None:
    """Return where there is no newest claim, or its run has ended or is dead, else raise ActiveRunError."""
    if newest is None or newest.ended:
        return
    holder, this = Holder.parse(newest.holder), Holder.this()
    if holder == this:
        if newest.run_id in _held:
            raise _taken(name, newest)
        return
    if holder.is_gone:
        return
    if holder.machine == this.machine:
        raise _taken(name, newest)
    log.info(
        "run %s on %s has %s; waiting for up to %.0f s whether it still beats",
        newest.run_id,
        holder.machine.split(" ")[0],
        name,
        timeout,
    )
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        time.sleep(min(_POLL_SECONDS, timeout / BEATS))
        rows = {row.run_id: row for row in _claimed_runs(lake, name)}
        last = max(rows.values(), key=lambda row: row.claim)
        if last.claim != newest.claim or last.beat != newest.beat:
            if rows[newest.run_id].ended and last.claim == newest.claim:
                return
            raise _taken(name, last)


def _taken(name: str, row: ClaimedRun | None) -> ActiveRunError:
    job, _, model_id = name.partition("/")
    whose = "another run"
    if row is not None:
        holder = Holder.parse(row.holder)
        host = holder.machine.split(" ")[0]
        whose = (
            f"run {row.run_id} (process {holder.pid} on {host}, last beat {row.beat:%H:%M:%S} UTC)"
        )
    what = job.replace("_", "-") + (f" for model {model_id}" if model_id else "")
    return ActiveRunError(
        f"another run of {what} is active in this lake: {whose}. Only one may work at a time; nothing was done twice. Wait "
        "for it to end, then run again if still needed"
    )
