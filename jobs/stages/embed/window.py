"""A window: the part of the source that one run looks at, as a stream in micro-batches that a killed run leaves to the next.

The stream's checkpoint serves one unfinished window of a model. It lies beside an identity file, goes on only where
that fits what is wanted now, and is removed with the window.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.driver.task_errors import is_broken_off
from jobs.stages.embed.history import Proof, TableState
from jobs.stages.embed.work import Embedding
from udfs import storage
from udfs.errors import LakeError

log = logging.getLogger("gme_lake")

_IDENTITY_BYTES = 1 << 20
_BASE_INDEX = -1  # of Delta's offsets: nothing of the version was given yet
Batch = Callable[["DataFrame", int], None]


class StreamError(LakeError):
    """The source's stream, not the work on a micro-batch, has failed."""


@dataclass(frozen=True)
class Window:
    """What is to be looked at: the change feed from version `start` on, or, without one, the whole table.

    `key` says of which table by which mapping, `where` of which rows (embed.where); `run_id` is null where another run may
    go on from the checkpoint.
    """

    key: str
    has_cdf: bool
    start: int | None
    run_id: str | None = None
    where: str | None = None


def choose_window(
    job: Embedding, proof: Proof, *, key: str, state: TableState, rescan: bool
) -> tuple[Window, int | None]:
    """The change feed where earlier runs prove the vectors up to its start and it can be read, else the whole table.

    With the number of rows in it; None where that is the whole table.
    """
    source, where = job.source, job.source.selection.where
    # Which rows are chosen follows from all of them, and is another question to the next run.
    is_own = rescan or source.selection.limit is not None or bool(source.selection.retry)
    whole = Window(key, source.has_cdf, None, job.run.run_id if is_own else None, where)
    if is_own:
        return whole, None
    if proof.version is None or proof.repeated:
        # Deleting one of two rows with the same id leaves the other one, which no change tells of.
        log.info("every row of %s is compared: %s", source.table, proof.why or "ids are repeated")
        return whole, None
    if not source.has_cdf:
        return whole, None
    start = proof.version + 1
    try:
        changed = source.changes(job.lake.spark, start=start, end=state.version).count()
    except (
        Exception
    ) as error:  # a vacuumed feed has many names: missing files, versions, feeds switched on later
        if is_broken_off(error):
            raise
        log.warning(
            "the change feed of %s cannot be read from version %d on; every row is compared instead (%s: %.300s)",
            source.table,
            start,
            type(error).__name__,
            error,
        )
        return whole, None
    log.info("%d changes of %s since version %d", changed, source.table, proof.version)
    return Window(key, True, start, where=where), changed


def superseded_ids(job: Embedding, window: Window, *, version: int) -> DataFrame | None:
    """(id, last) in files: ids that more than one commit of a change feed's window has changed, and the last of these."""
    if window.start is None or window.start >= version:  # one commit comes after none
        return None
    commit, folder = F.col("_commit_version"), f"{job.staging}/superseded"
    changes = job.source.changes(job.lake.spark, start=window.start, end=version)
    by_id = changes.groupBy(job.source.id_column().alias("id")).agg(
        F.min(commit).alias("first"), F.max(commit).alias("last")
    )
    left = Observation()
    several = by_id.where("first < last").select("id", "last")
    several = several.observe(left, F.count(F.lit(1)).alias("ids"))
    several.write.mode("overwrite").parquet(folder)
    return job.lake.spark.read.parquet(folder) if left.get["ids"] else None


@dataclass(frozen=True)
class Offset:
    """All versions up to `before` were given, and of version `amid`, where there is one, some or all rows."""

    before: int
    amid: int | None


class WindowStream:
    """The stream over a window, with its folder in the lake: `streams/<model_id>`."""

    def __init__(self, job: Embedding, window: Window, *, state: TableState) -> None:
        self._job, self.window, self._state = job, window, state
        self.folder = job.lake.folder("streams", job.model_id)
        self.begun = (
            state.version
        )  # version of the source at which the stream was begun, by this run or another

    def run(self, one_batch: Batch) -> int:
        """Give every micro-batch that is left to `one_batch`; the version of the source that was reached.

        A checkpoint that Spark cannot go on from is thrown away, and the window begun anew. Raises StreamError where the
        source's stream fails, LakeError where it was stopped from outside, and what `one_batch` raises.
        """
        opened = self._open()
        try:
            drained = self._stream(one_batch)
        except StreamError as error:
            if not opened or is_broken_off(error):
                raise
            log.warning("the unfinished stream of an earlier run is begun anew: %.300s", error)
            self._begin()
            drained = self._stream(one_batch)
        offset = self._offset()
        if offset.amid == self._state.version and not drained:
            # The files of a version's changes are numbered, and no number says that it is the last one: asked again,
            # a stream that has had them all gives nothing.
            drained = self._stream(one_batch)
            offset = self._offset()
        reached = offset.amid if drained and offset.amid is not None else offset.before
        if reached < self._state.version:
            raise LakeError(
                f"the stream over {self._job.source.table} ended at version {reached if reached >= 0 else 'none'} of "
                f"{self._state.version}: something has stopped it (another query of this application, or a stop of all "
                "streams). What was committed stays; run again to continue"
            )
        return reached

    def remove(self) -> None:
        """Remove the checkpoint: the window is finished, or given up."""
        storage.remove_folder(self.folder)

    @property
    def removals(self) -> str:
        """Folder for what a batch has to leave to the window's end."""
        return f"{self.folder}/removals"

    def _open(self) -> bool:
        """Whether there is a checkpoint that this window goes on from; where not, an empty one is made."""
        found: dict[str, Any] = {}
        try:
            text = storage.read_bytes(f"{self.folder}/identity.json", max_bytes=_IDENTITY_BYTES)
            found = json.loads(text)
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning(
                "%s/identity.json is damaged; the stream is begun anew (%s)", self.folder, error
            )
        if found.get("window") == asdict(self.window) and self._continues(found):
            log.info("going on with the unfinished stream of run %s", found["run_id"])
            self.begun = found["version"]
            return True
        self._begin()
        return False

    def _continues(self, found: dict[str, Any]) -> bool:
        """Whether nothing has happened since that the rest of a stream would not show."""
        state, version = self._state, found["version"]
        if not state.has(version, found["time"]):
            return False
        vectors = TableState.read(self._job.lake.spark, self._job.lake.name("vectors"))
        since = found["vectors_version"]
        if not vectors.vectors_kept(since=since, model_id=self._job.model_id):
            return False
        if not state.columns_kept(since=version):
            return False
        return self.window.has_cdf or state.only_added(since=version)

    def _begin(self) -> None:
        self.remove()
        self.begun = self._state.version
        text = json.dumps(self._identity(), indent=1)
        with TemporaryDirectory() as folder:
            local = Path(folder) / "identity.json"
            local.write_text(text)
            storage.publish(local, f"{self.folder}/identity.json")

    def _identity(self) -> dict[str, Any]:
        version = self._state.version
        return {
            "window": asdict(self.window),
            "version": version,
            "time": self._state.time(version),
            "vectors_version": self._job.run.vectors_version,
            "run_id": self._job.run.run_id,
        }

    def _stream(self, one_batch: Batch) -> bool:
        """Run the stream to the source's present end; whether there was nothing more to give from the start."""
        failures: list[BaseException] = []

        def process_batch(frame: DataFrame, batch_id: int) -> None:
            try:
                one_batch(frame, batch_id)
            except BaseException as error:
                failures.append(error)
                # Spark looks through its text with a regular expression that overflows the JVM's stack on a long one.
                raise RuntimeError("the micro-batch failed") from None

        job, settings = self._job, self._job.settings
        try:
            stream = job.source.stream(
                job.lake.spark,
                files=settings.files_per_batch,
                size=settings.bytes_per_batch,
                start=self.window.start,
            )
            query = (
                stream.writeStream.foreachBatch(process_batch)
                .option("checkpointLocation", f"{self.folder}/checkpoint")
                .trigger(availableNow=True)
                .start()
            )
            try:
                query.awaitTermination()
                progress = query.lastProgress
            finally:
                query.stop()
        except Exception as error:
            if failures:
                raise failures[0] from None
            raise StreamError(
                f"the stream over {job.source.table} failed: {type(error).__name__}: {error}"
            ) from error
        if (
            failures
        ):  # Spark reports a query that is stopped while its batch fails as an orderly end
            raise failures[0]
        if progress is None:  # stopped before it looked
            return False
        (source,) = progress["sources"]
        return bool(source["startOffset"] == source["endOffset"])

    def _offset(self) -> Offset:
        """How far the stream came, by the checkpoint's own files.

        Spark writes offsets/N before batch N and commits/N after it; an offset's last line is Delta's JSON.
        """
        done = [int(n) for n in storage.names(f"{self.folder}/checkpoint/commits") if n.isdigit()]
        if not done:
            return Offset(-1, None)
        file = f"{self.folder}/checkpoint/offsets/{max(done)}"
        offset = json.loads(storage.read_bytes(file, max_bytes=_IDENTITY_BYTES).splitlines()[-1])
        if offset["reservoirId"] != self._state.table_id:
            raise LakeError(
                f"{self._job.source.table} was made again while this run read it; run again to embed the new table"
            )
        version = int(offset["reservoirVersion"])
        amid = not offset["isStartingVersion"] and offset["index"] != _BASE_INDEX
        return Offset(version - 1, version if amid else None)
