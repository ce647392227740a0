"""The model thread: merges the requests of all connections into windows and runs the model over them."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from udfs.gme.prepare import EncodedBatch, Prepared
from udfs.serving.wire import EncodeReply

WINDOW_BUDGETS = (
    8  # a window holds this many model batches: enough to sort by length, little to wait for
)
log = logging.getLogger("gme_lake")


class Model(Protocol):
    """What the server needs of `udfs.gme.model.EmbeddingModel`."""

    def embed(self, rows: Sequence[Prepared]) -> EncodedBatch:
        """Vectors and errors in the rows' order."""


@dataclass
class Loaded:
    """A model in memory. `server` ("host:pid:uuid:device") is made at the load, so it names the load.

    `load_report` is JSON of names and values: the environment, and `canary_cosine` (or "unchecked").
    Token ids are below `vocabulary`; `image_token` is the one that stands for a piece of the row's picture.
    `load_seconds` are what the load took, until an answer has told them.
    """

    model: Model
    server: str
    load_report: str
    dim: int
    vocabulary: int
    image_token: int
    tokenizer_sha256: str
    load_seconds: float = 0.0

    def tell_load(self) -> float:
        """`load_seconds`, at the first call; 0 at later ones: the run that has waited for the load is told of it."""
        told, self.load_seconds = self.load_seconds, 0.0
        return told


@dataclass(eq=False)
class Job:
    """One request on its way through the model."""

    rows: list[Prepared]
    answer: asyncio.Future[EncodeReply]
    tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = sum(row.tokens for row in self.rows)


@dataclass
class WindowCounts:
    """What the model thread did; read by STATS."""

    requests: int = 0
    rows: int = 0
    windows: int = 0
    model_seconds: float = 0.0


class ModelThread(threading.Thread):
    """Owns the model. Loads it, then answers jobs until the process ends."""

    def __init__(self, load: Callable[[], Loaded], *, window_tokens: int) -> None:
        """`load` runs in the thread; `window_tokens` bounds a window. Construct it inside the event loop."""
        super().__init__(
            name="model", daemon=True
        )  # daemon: a stuck kernel must not keep the process
        self._loop = asyncio.get_running_loop()
        self._load = load
        self._window_tokens = window_tokens
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.loaded: asyncio.Future[Loaded] = self._loop.create_future()
        self.broken: asyncio.Future[None] = self._loop.create_future()
        self.counts = WindowCounts()

    def submit(self, rows: list[Prepared]) -> asyncio.Future[EncodeReply]:
        """The future answer to `rows`; cancel it to have the request forgotten."""
        job = Job(rows, self._loop.create_future())
        self._jobs.put(job)
        return job.answer

    def run(self) -> None:
        """Load, then run windows; after an error that is not a row's own, stop: the model's state is unknown."""
        try:
            loaded = self._load()
        except BaseException as exc:  # whatever it is, every waiting client must hear of it
            log.exception("the model could not be loaded")
            self._tell(self.loaded, exc.with_traceback(None))  # its frames would keep the model
            return
        self._tell(self.loaded, loaded)
        while True:
            jobs = self._window()
            try:
                self._run(jobs, loaded)
            except (
                BaseException
            ) as exc:  # CUDA errors leave the context unusable; the next server starts afresh
                log.exception("the model failed over %d requests", len(jobs))
                self._tell(self.broken, None)  # first: nobody new may be let in
                for job in jobs:
                    self._tell(job.answer, exc)
                return

    def _window(self) -> list[Job]:
        jobs = [self._jobs.get()]
        tokens = jobs[0].tokens
        while tokens < self._window_tokens:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
            tokens += jobs[-1].tokens
        return [job for job in jobs if not job.answer.cancelled()]

    def _run(self, jobs: list[Job], loaded: Loaded) -> None:
        rows = [row for job in jobs for row in job.rows]
        if not jobs:  # every client of this window is gone
            return
        started = time.perf_counter()
        encoded = loaded.model.embed(rows)
        seconds = time.perf_counter() - started
        tokens = max(1, sum(job.tokens for job in jobs))
        end = 0
        for job in jobs:
            start, end = end, end + len(job.rows)
            answer = EncodeReply(
                vectors=encoded.vectors[start:end],
                errors=encoded.errors[start:end],
                server=loaded.server,
                model_seconds=seconds * job.tokens / tokens,
                budget_tokens=encoded.budget_tokens * job.tokens / tokens,
                load_seconds=loaded.tell_load(),
            )
            self._tell(job.answer, answer)
        self.counts.requests += len(jobs)
        self.counts.rows += len(rows)
        self.counts.windows += 1
        self.counts.model_seconds += seconds

    def _tell(self, future: asyncio.Future, outcome: object) -> None:  # type: ignore[type-arg]
        self._loop.call_soon_threadsafe(_settle, future, outcome)


def _settle(future: asyncio.Future, outcome: object) -> None:  # type: ignore[type-arg]
    if future.done():  # cancelled: its client is gone
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
