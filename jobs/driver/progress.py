"""Progress of a long job: one live line in a terminal, plain log lines elsewhere, names of its jobs in Spark's UI."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import SparkContext
from pyspark.sql import is_remote
from tqdm import tqdm

from udfs import storage
from udfs.embed.rows_done import REPORT_SECONDS, Done, read_done

log = logging.getLogger("gme_lake")

_DESCRIPTION = "spark.job.description"
_LOG_SECONDS = (
    15.0  # between lines of a log; a terminal's line is rewritten as often as there is news
)


class RowProgress:
    """Rows done of a known or unknown total, rows per second, rejected rows, time left."""

    def __init__(self, label: str, *, total: int | None) -> None:
        self._live = sys.stderr.isatty()
        self._label = label
        self._total = total
        self._start = self._logged = time.monotonic()
        self._bar = tqdm(
            total=total, desc=label, unit="row", disable=not self._live, dynamic_ncols=True
        )
        self.done = 0
        self.rejected = 0
        self._under_way = Done(0, 0, ended=False)

    def add(self, rows: int, *, rejected: int) -> None:
        """Count rows that are done for good, some of them rejected, and show it; they include those under way."""
        self.done += rows
        self.rejected += rejected
        self._under_way = Done(0, 0, ended=False)
        self._show(oftenest=0.0)

    def under_way(self, seen: Done, *, every: float = _LOG_SECONDS) -> None:
        """Show rows that tasks have done and nobody has committed yet; a log has a line every so many seconds.

        Counts of tasks that are tried again begin anew: what is shown never goes back.
        """
        before = self._under_way
        rows, rejected = max(seen.rows, before.rows), max(seen.rejected, before.rejected)
        self._under_way = Done(rows, rejected, ended=False)
        if rows > before.rows:
            self._show(oftenest=every)

    def line(self) -> str:
        """The progress as one line of text."""
        done, rejected = self._rows_and_seconds()
        rate = done / max(time.monotonic() - self._start, 1e-9)
        of = f" of {self._total:,}" if self._total else ""
        left = max((self._total or 0) - done, 0) / rate if rate and self._total else 0.0
        ends = f", about {left:,.0f} s left" if self._total else ""
        return f"{self._label}: {done:,}{of} rows, {rate:,.1f} rows/s, {rejected:,} rejected{ends}"

    def close(self) -> None:
        """Leave the terminal line as it is."""
        self._bar.close()

    def _rows_and_seconds(self) -> tuple[int, int]:
        return self.done + self._under_way.rows, self.rejected + self._under_way.rejected

    def _show(self, *, oftenest: float) -> None:
        if self._live:
            done, rejected = self._rows_and_seconds()
            self._bar.set_postfix(rejected=rejected, refresh=False)
            self._bar.n = done
            self._bar.refresh()
        elif time.monotonic() - self._logged >= oftenest:
            self._logged = time.monotonic()
            log.info("%s", self.line())


@contextmanager
def rows_from_executors(
    progress: RowProgress | None, folder: str, *, every: float = REPORT_SECONDS
) -> Iterator[None]:
    """While the block runs, show how many rows its tasks say in `folder` that they have done (`udfs.embed.rows_done`).

    Files rather than Spark's accumulators, which Spark Connect and shared clusters do not have. `None`: show nothing.
    """
    if progress is None:
        yield
        return
    if (path := storage.local_path(folder)) is not None:
        path.mkdir(parents=True, exist_ok=True)
    over = threading.Event()
    watching = threading.Thread(target=_watch, args=(progress, folder, over, every), daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join(every)  # a store that does not answer must not hold the job up


def _watch(progress: RowProgress, folder: str, over: threading.Event, every: float) -> None:
    known: dict[str, Done] = {}
    wait = every
    while not over.wait(wait):
        started = time.monotonic()
        try:
            seen = read_done(folder, known=known)
        except (
            Exception
        ) as error:  # libraries of stores raise anything, and this thread is nobody's to catch
            log.warning("no progress within the batch: %s cannot be read: %s", folder, error)
            return
        if not over.is_set():
            progress.under_way(seen)
        wait = max(every, 10 * (time.monotonic() - started))  # thousands of tasks: look less often


@contextmanager
def described_jobs(description: str) -> Iterator[None]:
    """Spark jobs that this thread starts in the block are called so in Spark's UI, in lists of jobs and of SQL alike.

    A Connect client has no jobs of its own to name.
    """
    if is_remote():
        yield
        return
    context = SparkContext.getOrCreate()
    before = context.getLocalProperty(_DESCRIPTION)
    context.setLocalProperty(_DESCRIPTION, description)
    try:
        yield
    finally:
        context.setLocalProperty(_DESCRIPTION, before)  # type: ignore[arg-type]  # None takes it away
