"""A worker's connection to the model server: hello, pipelined requests, statistics."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from udfs.errors import ServingError
from udfs.gme.prepare import Prepared
from udfs.serving import wire
from udfs.serving.address import Address
from udfs.serving.wire import EncodeReply, Kind
from udfs.specs import ModelSpec

_ERROR_BYTES = 1024  # of a row's error in an answer, with what Arrow adds
IN_FLIGHT = 2  # one request in the model, the next one waiting: decoding overlaps the model


class LostError(ServingError):
    """The server went away: killed, out of memory, or leaving just when a client came."""


class ServerClient:
    """One task's connection. Use it as a context manager, from one thread."""

    def __init__(
        self,
        connection: socket.socket,
        address: Address,
        *,
        model: ModelSpec,
        tokenizer: str | None,
        deadline: float,
    ) -> None:
        """Say hello and wait until the model is loaded, at most until `deadline` (time.monotonic seconds).

        `tokenizer` is the sha-256 of the tokenizer.json that rows are prepared with.
        """
        self._socket = connection
        self._address = address
        self._row_bytes = 4 * model.dim + _ERROR_BYTES
        try:
            self.server, self.load_report = self._greet(model, tokenizer, deadline)
        except BaseException:
            connection.close()
            raise

    def embed_stream(self, requests: Iterable[list[Prepared]]) -> Iterator[EncodeReply]:
        """One answer a request, in order; the next request is sent before the last answer is awaited.

        ServingError where the server is lost or failed: Spark then retries the task, and a new server is elected.
        """
        waiting: deque[int] = deque()
        for rows in requests:
            if len(waiting) == IN_FLIGHT:
                yield self._answer(waiting.popleft())
            self._send(Kind.EMBED, wire.encode_rows(rows))
            waiting.append(len(rows))
        while waiting:
            yield self._answer(waiting.popleft())

    def stats(self) -> dict[str, Any]:
        """What the server counted: clients, requests, rows, windows, bytes, seconds, peak memory."""
        self._send(Kind.STATS, wire.encode_json({}))
        return wire.decode_json(self._receive(Kind.STATS, limit=wire.CONTROL_BYTES))

    def close(self) -> None:
        """Close the connection; the server forgets requests that it has not answered."""
        self._socket.close()

    def __enter__(self) -> ServerClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _greet(self, model: ModelSpec, tokenizer: str | None, deadline: float) -> tuple[str, str]:
        hello = {"protocol": wire.PROTOCOL, "model_id": model.model_id, "tokenizer": tokenizer}
        self._socket.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            self._send(Kind.HELLO, wire.encode_json(hello))
            answer = wire.decode_json(self._receive(Kind.HELLO, limit=wire.CONTROL_BYTES))
        except TimeoutError as exc:
            raise ServingError(
                "the model server did not finish loading within serving.start_timeout_seconds; "
                f"its log ends:\n{self._address.log_tail()}"
            ) from exc
        self._socket.settimeout(None)
        if answer.get("dim") != model.dim:
            raise ServingError(
                f"vectors of {model.dim} numbers expected, the server's have {answer.get('dim')}"
            )
        return str(answer["server"]), str(answer["load_report"])

    def _answer(self, rows: int) -> EncodeReply:
        limit = rows * self._row_bytes + wire.FAILURE_BYTES
        answer = wire.decode_answer(self._receive(Kind.ANSWER, limit=limit))
        if len(answer.errors) != rows:
            raise ServingError(f"{rows} rows were asked for, {len(answer.errors)} were answered")
        return answer

    def _send(self, kind: Kind, payload: Any) -> None:
        try:
            self._socket.sendall(wire.pack_head(kind, len(payload)))
            self._socket.sendall(payload)
        except (BrokenPipeError, ConnectionResetError) as exc:
            self._raise_last_words(exc)

    def _raise_last_words(self, broken: OSError) -> None:
        """A server that fails says why before it closes; that is worth more than "broken pipe"."""
        limits = {
            Kind.FAILURE: wire.FAILURE_BYTES,
            Kind.ANSWER: wire.REQUEST_ROWS * self._row_bytes + wire.FAILURE_BYTES,
            Kind.HELLO: wire.CONTROL_BYTES,
            Kind.STATS: wire.CONTROL_BYTES,
        }
        try:
            while True:
                kind, size = wire.parse_head(self._read(wire.HEAD_SIZE), limits=limits)
                payload = self._read(size)
                if kind is Kind.FAILURE:
                    wire.raise_failure(wire.decode_json(payload))
        except LostError as lost:
            raise lost from broken

    def _receive(self, expected: Kind, *, limit: int) -> memoryview:
        limits = {expected: limit, Kind.FAILURE: wire.FAILURE_BYTES}
        kind, size = wire.parse_head(self._read(wire.HEAD_SIZE), limits=limits)
        payload = self._read(size)
        if kind is Kind.FAILURE:
            wire.raise_failure(wire.decode_json(payload))
        return payload

    def _read(self, size: int) -> memoryview:
        buffer = memoryview(bytearray(size))
        done = 0
        while done < size:
            try:
                count = self._socket.recv_into(buffer[done:])
            except ConnectionResetError as exc:
                raise self._lost() from exc
            if count == 0:
                raise self._lost()
            done += count
        return buffer

    def _lost(self) -> LostError:
        return LostError(
            f"the model server was lost (socket {self._address.socket}); Spark retries the task "
            f"with a new server. Its log ends:\n{self._address.log_tail()}"
        )
