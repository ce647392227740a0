"""One client's connection inside the model server: requests in, answers out, both bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

from udfs.errors import ServingError
from udfs.serving import wire
from udfs.serving.window import Loaded, ModelThread
from udfs.serving.wire import Answer, Kind

_LOG = logging.getLogger(__name__)


class ByteBudget:
    """Bytes of requests in the server. First come, first served; a request larger than all of it goes alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def reserve(self, size: int) -> None:
        """Wait until `size` bytes fit."""
        async with self._turn:
            while self.used and self.used + size > self.limit:
                self._freed.clear()
                await self._freed.wait()
            self.used += size
            self.peak = max(self.peak, self.used)

    def release(self, size: int) -> None:
        """Give back what `reserve` took."""
        self.used -= size
        self._freed.set()


class Session:
    """Reads requests ahead while earlier answers are still computed or sent, so that no side waits for the other."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        thread: ModelThread,
        budget: ByteBudget,
        model_id: str,
        stats: Callable[[], dict[str, Any]],
    ) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._budget = budget
        self._model_id = model_id
        self._stats = stats
        self._writing = asyncio.Lock()
        self._room = asyncio.Semaphore(wire.MAX_IN_FLIGHT)
        self._answers: asyncio.Queue[tuple[asyncio.Future[Answer] | None, int]] = asyncio.Queue()

    async def run(self) -> None:
        """Serve until the client closes. An error is answered with FAILURE and ends this connection only."""
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._greet()
            tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._send())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        except (ConnectionError, EOFError):
            pass  # the client went away: a task was killed, cancelled, or had enough (LIMIT)
        except Exception as exc:
            await self._fail(exc)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._forget()
            self._socket.close()

    async def _greet(self) -> None:
        kind, size = await self._head()
        if kind is not Kind.HELLO or size > 4096:
            raise ServingError(f"a HELLO expected first, found {kind.name} of {size:,} bytes")
        hello = wire.decode_json(await self._body(size))
        ours = {"protocol": wire.PROTOCOL, "model_id": self._model_id}
        if hello != ours:
            raise ServingError(f"a client asked for {hello}, this server serves {ours}")
        loaded: Loaded = await asyncio.shield(self._thread.loaded)
        if self._thread.broken.done():
            raise ConnectionError("this server is about to leave")  # the client looks for the next
        await self._write(
            Kind.HELLO,
            wire.encode_json(ours | {"server": loaded.server, "dim": loaded.dim}),
        )

    async def _receive(self) -> None:
        while True:
            kind, size = await self._head()
            await self._room.acquire()
            if kind is Kind.STATS:
                await self._body(size)
                self._answers.put_nowait((None, 0))
            elif kind is Kind.EMBED:
                await self._budget.reserve(size)
                try:
                    rows = wire.decode_rows(await self._body(size))
                    self._answers.put_nowait((self._thread.submit(rows), size))
                except BaseException:
                    self._budget.release(size)
                    raise
            else:
                raise ServingError(f"EMBED or STATS expected, found {kind.name}")

    async def _send(self) -> None:
        while True:
            future, size = await self._answers.get()
            try:
                answer = None if future is None else await future
            finally:
                self._budget.release(size)
            if answer is None:
                await self._write(Kind.STATS, wire.encode_json(self._stats()))
            else:
                await self._write(Kind.ANSWER, wire.encode_answer(answer))
            self._room.release()

    def _forget(self) -> None:
        while not self._answers.empty():
            future, size = self._answers.get_nowait()
            if future is not None:
                future.cancel()
            self._budget.release(size)

    async def _fail(self, error: Exception) -> None:
        _LOG.error("a client is refused: %s", error)
        with contextlib.suppress(OSError):  # nobody is left to hear it
            await self._write(Kind.FAILURE, wire.encode_json(wire.failure(error)))

    async def _head(self) -> tuple[Kind, int]:
        return wire.parse_head(await self._body(wire.HEAD_SIZE))

    async def _body(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(size))
        done = 0
        while done < size:
            count = await self._loop.sock_recv_into(self._socket, buffer[done:])
            if count == 0:
                raise EOFError
            done += count
        return buffer

    async def _write(self, kind: Kind, payload: Any) -> None:
        async with self._writing:  # a FAILURE may not cut an answer in two
            await self._loop.sock_sendall(self._socket, wire.pack_head(kind, len(payload)))
            await self._loop.sock_sendall(self._socket, payload)
