"""One client's connection inside the model server: requests in, answers out, both bounded in bytes and in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from udfs.errors import ServingError
from udfs.serving import wire
from udfs.serving.limits import RequestLimits, check_tokenizer, frame_limit
from udfs.serving.window import Loaded, ModelThread
from udfs.serving.wire import EncodeReply, Kind
from udfs.specs import ModelSpec, ServingSpec

_FAILURE_SECONDS = 5.0  # for a client to take the reason why it is refused
log = logging.getLogger("gme_lake")


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
    """Reads requests ahead while earlier answers are still computed or sent, so that no side waits for the other.

    A client may be silent between two frames as long as it likes. A frame that has begun must arrive within
    `frame_timeout_seconds`, and an answer must be taken within `answer_timeout_seconds`. Bytes are reserved from a
    frame's arrival until the model has answered it: neither a client that stops in a frame nor one that reads no
    answer holds up the others.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        thread: ModelThread,
        budget: ByteBudget,
        model: ModelSpec,
        serving: ServingSpec,
        stats: Callable[[], dict[str, Any]],
    ) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._budget = budget
        self._model = model
        self._serving = serving
        self._stats = stats
        self._writing = asyncio.Lock()
        self._cut = False  # a frame was left half written: nothing can follow it
        self._room = asyncio.Semaphore(wire.MAX_IN_FLIGHT)
        self._answers: asyncio.Queue[asyncio.Future[EncodeReply] | None] = asyncio.Queue()

    async def run(self) -> None:
        """Serve until the client closes. An error is answered with FAILURE and ends this connection only."""
        tasks: list[asyncio.Task[None]] = []
        try:
            limits = await self._greet()
            tasks = [asyncio.create_task(self._receive(limits)), asyncio.create_task(self._send())]
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

    async def _greet(self) -> RequestLimits:
        async with self._in_time("a HELLO"):
            _, size = await self._head({Kind.HELLO: wire.CONTROL_BYTES})
            hello = wire.decode_json(await self._body(size))
        ours = {"protocol": wire.PROTOCOL, "model_id": self._model.model_id}
        if {key: hello.get(key) for key in ours} != ours:
            raise ServingError(f"a client asked for {hello}, this server serves {ours}")
        loaded: Loaded = await asyncio.shield(self._thread.loaded)
        if self._thread.broken.done():
            raise ConnectionError("this server is about to leave")  # the client looks for the next
        check_tokenizer(hello.get("tokenizer"), loaded, self._model)
        answer = ours | {"server": loaded.server, "load_report": loaded.load_report}
        answer |= {"dim": loaded.dim}
        await self._write(Kind.HELLO, wire.encode_json(answer))
        return RequestLimits.of(loaded, self._model.profile)

    async def _receive(self, limits: RequestLimits) -> None:
        kinds = {Kind.STATS: wire.CONTROL_BYTES, Kind.EMBED: frame_limit(self._model.profile)}
        while True:
            first = await self._body(1)  # whenever the client has something to say
            async with self._in_time("the head of a frame"):
                kind, size = await self._head(kinds, first=first)
            await self._room.acquire()
            if kind is Kind.STATS:
                async with self._in_time("a STATS"):
                    await self._body(size)
                self._answers.put_nowait(None)
            else:
                self._answers.put_nowait(await self._submit(size, limits))

    async def _submit(self, size: int, limits: RequestLimits) -> asyncio.Future[EncodeReply]:
        """Read a request and hand it to the model; its bytes stay reserved until it is answered or forgotten."""
        await self._budget.reserve(size)
        try:
            async with self._in_time(f"an EMBED of {size:,} bytes"):
                body = await self._body(size)
            rows = wire.decode_rows(body)
            limits.check(rows)
            answer = self._thread.submit(rows)
        except BaseException:
            self._budget.release(size)
            raise
        answer.add_done_callback(lambda _: self._budget.release(size))
        return answer

    async def _send(self) -> None:
        while True:
            future = await self._answers.get()
            if future is None:
                await self._write(Kind.STATS, wire.encode_json(self._stats()))
            else:
                await self._write(Kind.ANSWER, wire.encode_answer(await future))
            self._room.release()

    def _forget(self) -> None:
        while not self._answers.empty():
            future = self._answers.get_nowait()
            if future is not None:
                future.cancel()

    async def _fail(self, error: Exception) -> None:
        log.error("a client is refused: %s", error)
        # A frame that was cut, or nobody left to hear it.
        with contextlib.suppress(OSError, ServingError):
            failure = wire.encode_json(wire.failure(error))
            await self._write(Kind.FAILURE, failure, seconds=_FAILURE_SECONDS)

    @contextlib.asynccontextmanager
    async def _in_time(self, what: str) -> AsyncIterator[None]:
        """The time that a frame of the client has from its beginning to its end."""
        seconds = self._serving.frame_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as exc:
            raise ServingError(
                f"{what} did not arrive whole within {seconds:g} s (serving.frame_timeout_seconds)"
            ) from exc

    async def _head(
        self, limits: Mapping[Kind, int], *, first: memoryview | bytes = b""
    ) -> tuple[Kind, int]:
        rest = await self._body(wire.HEAD_SIZE - len(first))
        return wire.parse_head(bytes(first) + bytes(rest), limits=limits)

    async def _body(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(size))
        done = 0
        while done < size:
            count = await self._loop.sock_recv_into(self._socket, buffer[done:])
            if count == 0:
                raise EOFError
            done += count
        return buffer

    async def _write(self, kind: Kind, payload: Any, *, seconds: float | None = None) -> None:
        seconds = self._serving.answer_timeout_seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(seconds), self._writing:
                if self._cut:
                    raise ServingError("the frame before was cut")
                self._cut = True
                await self._loop.sock_sendall(self._socket, wire.pack_head(kind, len(payload)))
                await self._loop.sock_sendall(self._socket, payload)
                self._cut = False
        except TimeoutError as exc:
            raise ServingError(
                f"a client did not take {kind.name} within {seconds:g} s (serving.answer_timeout_seconds)"
            ) from exc
