"""The model server: one process per (Spark executor, GPU) that owns the only copy of the model.

`python -m udfs.serving.server --lock FD OPTIONS`; `udfs.serving.launch` starts it, people do not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from udfs.errors import CanaryError
from udfs.serving.address import Address
from udfs.serving.device import usable_cores
from udfs.serving.session import ByteBudget, Session
from udfs.serving.window import WINDOW_BUDGETS, Loaded, ModelThread
from udfs.specs import CanarySpec, ModelProfile, ModelSpec, ServingSpec

_MEET_SECONDS = 60.0  # for the worker that started the server to connect
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED)
_LINGER_SECONDS = 0.5  # for failures to reach the clients before the process ends
_REFUSED_SECONDS = 30.0  # the same for a refusal by canaries: for each load Spark would try again
log = logging.getLogger("gme_lake")


@dataclass(frozen=True)
class Options:
    """What the electing worker tells its server. `watch` is the pid of the process that the server must not outlive."""

    address: Address
    watch: int
    device: str
    model: ModelSpec
    serving: ServingSpec

    @classmethod
    def parse(cls, text: str) -> Options:
        """From the JSON that `udfs.serving.launch` writes."""
        raw = json.loads(text)
        model = raw["model"]
        profile = ModelProfile(**model.pop("profile"))
        canaries = model.pop("canaries")
        return cls(
            address=Address(folder=Path(raw["folder"]), name=raw["name"]),
            watch=raw["watch"],
            device=raw["device"],
            model=ModelSpec(**model, profile=profile, canaries=canaries and CanarySpec(**canaries)),
            serving=ServingSpec(**raw["serving"]),
        )


class ModelServer:
    """Accepts clients, lends them the model thread, and decides when to leave."""

    def __init__(self, options: Options, load: Callable[[], Loaded]) -> None:
        """Construct it inside the event loop."""
        self._options = options
        self._thread = ModelThread(
            load, window_tokens=WINDOW_BUDGETS * options.serving.token_budget
        )
        self._budget = ByteBudget(options.serving.queue_bytes)
        self._met = asyncio.Event()  # the worker that started this server has come
        self._sessions: set[asyncio.Task[None]] = set()
        self._idle_since = time.monotonic()
        self._leave: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve until there is a reason to leave."""
        self._watch_parent()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, "SIGTERM")
        listener = _listen(self._options.address.socket)
        self._thread.start()
        accepting = asyncio.create_task(self._accept(listener))
        duties = [
            asyncio.create_task(self._leave_idle()),
            asyncio.create_task(self._leave_broken(accepting)),
        ]
        reason = await self._leave
        log.info("leaving: %s", reason)
        for duty in (accepting, *duties):
            duty.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as exc:
                    if exc.errno not in _NO_DESCRIPTOR:
                        raise
                    log.error("a client must wait: %s", exc)  # until another one leaves
                    await asyncio.sleep(_LINGER_SECONDS)
                    continue
                self._admit(connection)
        finally:  # who comes now waits for the lock and starts the next server
            listener.close()
            self._options.address.socket.unlink(missing_ok=True)

    def _admit(self, connection: socket.socket) -> None:
        self._met.set()
        session = Session(
            connection,
            thread=self._thread,
            budget=self._budget,
            model=self._options.model,
            serving=self._options.serving,
            stats=self._stats,
        )
        task = asyncio.create_task(session.run())
        self._sessions.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._sessions.discard(task)
        self._idle_since = time.monotonic()

    async def _leave_idle(self) -> None:
        await asyncio.wait([self._thread.loaded])
        await self._meet()
        limit = self._options.serving.idle_seconds
        self._idle_since = time.monotonic()
        while self._sessions or time.monotonic() - self._idle_since < limit:
            await asyncio.sleep(min(1.0, limit / 4))
        self._stop(f"no client for {limit:g} s")

    async def _leave_broken(self, accepting: asyncio.Task[None]) -> None:
        try:
            await asyncio.shield(self._thread.loaded)
            await self._thread.broken
            reason = "the model failed"
            accepting.cancel()
        except Exception as exc:
            reason = f"the model could not be loaded: {exc}"
            await self._meet()
            # Other waiting clients hear why, too, and a task that Spark tries again without another load.
            refused = isinstance(exc, CanaryError)
            await asyncio.sleep(_REFUSED_SECONDS if refused else _LINGER_SECONDS)
        if self._sessions:
            await asyncio.wait(self._sessions, timeout=_LINGER_SECONDS)
        self._stop(reason)

    async def _meet(self) -> None:
        with contextlib.suppress(TimeoutError):  # that worker was killed meanwhile
            await asyncio.wait_for(self._met.wait(), _MEET_SECONDS)

    def _watch_parent(self) -> None:
        loop, watch = asyncio.get_running_loop(), self._options.watch
        try:
            if sys.platform == "linux":  # a pidfd becomes readable at the end and is never reused
                loop.add_reader(os.pidfd_open(watch), self._stop, "the watched process ended")
            else:
                os.kill(watch, 0)
                loop.call_later(1.0, self._watch_parent)
        except ProcessLookupError:
            self._stop("the watched process is gone")

    def _stop(self, reason: str) -> None:
        if not self._leave.done():
            self._leave.set_result(reason)

    def _stats(self) -> dict[str, Any]:
        counts = self._thread.counts
        return {
            "clients": len(self._sessions),
            "requests": counts.requests,
            "rows": counts.rows,
            "windows": counts.windows,
            "model_seconds": counts.model_seconds,
            "queue_bytes_peak": self._budget.peak,
            "rss_peak_bytes": _peak_rss(),
        }


def serve(options: Options, load: Callable[[], Loaded]) -> None:
    """Run a server to its end and leave the process, with nothing left on disk."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_life(options, load))
    options.address.remove()
    # The model thread may be inside a kernel: no interpreter shutdown, no waiting for it.
    sys.stderr.flush()
    os._exit(0)


async def _life(options: Options, load: Callable[[], Loaded]) -> None:
    await ModelServer(options, load).run()


def main_with(load: Callable[[Options], Loaded], argv: list[str] | None = None) -> None:
    """Entry of a server process whose model is `load(options)`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=int, required=True, help="inherited descriptor of the lock")
    parser.add_argument("options", help="JSON written by udfs.serving.launch")
    arguments = parser.parse_args(argv)
    os.set_inheritable(arguments.lock, False)  # held by this process alone, to its very end
    options = Options.parse(arguments.options)
    serve(options, partial(load, options))


def _load(options: Options) -> Loaded:
    from udfs.serving.loading import load_model

    return load_model(
        options.model,
        options.serving,
        device=options.device,
        threads=usable_cores(options.serving.threads),
    )


def _peak_rss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # see getrusage(2) of each system
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # a killed server's; the lock says that it is not in use
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener


if __name__ == "__main__":
    main_with(_load)
