"""A client that breaks the rules harms nobody but itself: raw sockets against a real server process."""

import dataclasses
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.unit.serving.conftest import MODEL, SERVING, until
from tests.unit.serving.fake_server import IMAGE_TOKEN, SLOW, TOKENIZER, VOCABULARY
from udfs.errors import ServingError
from udfs.gme.prepare import Prepared
from udfs.serving import wire
from udfs.serving.client import ServerClient
from udfs.serving.launch import open_server
from udfs.serving.limits import frame_limit
from udfs.serving.wire import Kind
from udfs.specs import ServingSpec

pytestmark = [pytest.mark.usefixtures("folder"), pytest.mark.slow]  # each starts a server
HELLO = {"protocol": wire.PROTOCOL, "model_id": MODEL.model_id, "tokenizer": TOKENIZER}
MEBIBYTE = 1 << 20


def _row(*tokens: int, grid: tuple[int, int] | None = None) -> Prepared:
    patches = None if grid is None else np.ones((abs(grid[0] * grid[1]), 3, 14, 14), np.uint8)
    return Prepared(np.array(tokens, np.int32), patches, grid)


def _frame(kind: Kind, payload: bytes) -> bytes:
    return wire.pack_head(kind, len(payload)) + payload


def _embed(*rows: Prepared) -> bytes:
    return _frame(Kind.EMBED, wire.encode_rows(list(rows)).to_pybytes())


def _greeted(path: str) -> socket.socket:
    """A raw connection that has said hello and heard the answer."""
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(10)
    raw.connect(path)
    raw.sendall(_frame(Kind.HELLO, wire.encode_json(HELLO)))
    assert _heard(raw) is Kind.HELLO
    return raw


def _heard(raw: socket.socket) -> Kind:
    """Read one frame."""
    limits = dict.fromkeys(Kind, MEBIBYTE)
    kind, size = wire.parse_head(raw.recv(wire.HEAD_SIZE, socket.MSG_WAITALL), limits=limits)
    assert len(raw.recv(size, socket.MSG_WAITALL)) == size
    return kind


def _end(raw: socket.socket) -> bytes:
    """All that still comes until the server closes the connection."""
    heard = b""
    try:
        while data := raw.recv(1 << 16):
            heard += data
    except ConnectionResetError:
        pass
    return heard


def _answered(client: ServerClient, number: int, *, seconds: float = 30.0) -> None:
    """A well-behaved client is served at once."""
    started = time.monotonic()
    (answer,) = client.embed_stream(iter([[_row(number, IMAGE_TOKEN, grid=(2, 2))]]))
    assert answer.vectors[0, 0] == number
    assert time.monotonic() - started < seconds


@pytest.fixture
def connect(watched: subprocess.Popen[bytes]) -> Callable[..., ServerClient]:
    def connect(serving: ServingSpec = SERVING, tokenizer: str = TOKENIZER) -> ServerClient:
        return open_server(MODEL, serving, tokenizer=tokenizer, watch=watched.pid)

    return connect


@pytest.fixture
def other(connect) -> Iterator[ServerClient]:
    """A well-behaved client of the server; `_address.socket` is where the others connect."""
    with connect() as client:
        _answered(client, 1)  # by now the server has loaded every library
        yield client


def _path(client: ServerClient) -> str:
    return str(client._address.socket)


BAD_ROWS = {
    "token id 100000 is none of": _row(1, VOCABULARY),
    "token id -1 is none of": _row(-1, 1),
    "it has 0 tokens": _row(),
    "it has 1,801 tokens": _row(*[1] * 1801),
    "4 patches and 0 places": _row(1, grid=(2, 2)),
    "0 patches and 2 places": _row(1, IMAGE_TOKEN, IMAGE_TOKEN),
    r"grid of \(1, 4\) patches cannot": _row(1, IMAGE_TOKEN, grid=(1, 4)),
    r"grid of \(-2, -2\) patches cannot": _row(1, IMAGE_TOKEN, grid=(-2, -2)),
}


def test_what_a_model_cannot_take_is_refused_on_arrival(other, connect) -> None:
    _refuses_rows(other, connect)
    _refuses_another_tokenizer(other, connect)
    _refuses_large_frames(other)


def _refuses_rows(other: ServerClient, connect: Callable[..., ServerClient]) -> None:
    for said, bad in BAD_ROWS.items():
        with connect() as client, pytest.raises(ServingError, match=said):
            list(client.embed_stream(iter([[_row(1)], [_row(2), bad]])))
        _answered(other, 7)
    with connect() as client, pytest.raises(ServingError, match="257 rows was sent; the limit"):
        list(client.embed_stream(iter([[_row(1)] * (wire.REQUEST_ROWS + 1)])))
    with connect() as again:
        assert again.server == other.server  # no failure of the model, so no other server
    until(lambda: other.stats()["clients"] == 1)


def _refuses_another_tokenizer(other: ServerClient, connect: Callable[..., ServerClient]) -> None:
    with pytest.raises(ServingError, match=r"sha-256 8888888888888888.* is 7777777777777777"):
        connect(tokenizer="8" * 64)
    _answered(other, 7)


def _refuses_large_frames(other: ServerClient) -> None:
    """Without taking memory for them."""
    server = psutil.Process(int(other.server.split(":")[1]))
    before = server.memory_info().rss
    raws = []
    for _ in range(12):
        for kind in (Kind.STATS, Kind.EMBED, Kind.HELLO):
            raws.append(raw := _greeted(_path(other)))
            raw.sendall(wire.pack_head(kind, frame_limit(MODEL.profile) + 1) + bytes(1000))
    peak = max(server.memory_info().rss for _ in range(20) if not time.sleep(0.01))
    assert peak - before < 50 * MEBIBYTE
    for raw in raws:
        assert b"ServingError" in _end(raw)
        raw.close()
    _answered(other, 7)


def test_a_client_that_stops_in_a_frame_holds_nobody_up(connect) -> None:
    whole = _embed(*[_row(1, *[IMAGE_TOKEN] * 13, grid=(2, 26))] * 3)
    serving = dataclasses.replace(SERVING, frame_timeout_seconds=0.5, queue_bytes=len(whole))
    with connect(serving) as other:
        _answered(other, 1)
        stalled = [_greeted(_path(other)) for _ in range(3)]
        stalled[0].sendall(whole[: len(whole) // 2])  # all of the queue is its
        stalled[1].sendall(whole[:5])
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(_path(other))
        _answered(other, 7)
        for raw, what in ((stalled[0], b"an EMBED of"), (stalled[1], b"head"), (silent, b"HELLO")):
            assert what in _end(raw)
            raw.close()
        stalled[2].sendall(_embed(_row(5)))  # silent between frames: it keeps its connection
        assert _heard(stalled[2]) is Kind.ANSWER
        stalled[2].close()


def _never_reading(path: str) -> socket.socket:
    """A client that sends requests as long as the server takes them, and reads no answer."""
    raw = _greeted(path)
    raw.settimeout(0.5)
    stats = _frame(Kind.STATS, b"{}")
    embed = _embed(*[_row(1, *[IMAGE_TOKEN] * 13, grid=(2, 26))])
    with pytest.raises((TimeoutError, BrokenPipeError)):  # nobody reads on, or the server has left
        for _ in range(3000):
            raw.sendall(stats + stats + stats + embed)
    return raw


def test_a_client_that_takes_no_answers_holds_nobody_up(connect) -> None:
    with connect(dataclasses.replace(SERVING, queue_bytes=70_000)) as other:
        _answered(other, 1)
        stuck = [_never_reading(_path(other)) for _ in range(3)]  # each request is 30 kB
        for number in range(1, 6):
            _answered(other, number)
        for raw in stuck:
            raw.close()
        until(lambda: other.stats()["clients"] == 1)


def test_a_client_that_takes_no_answers_is_left_in_the_end(connect) -> None:
    with connect(dataclasses.replace(SERVING, answer_timeout_seconds=0.2)) as other:
        _answered(other, 1)
        stuck = _never_reading(_path(other))
        until(lambda: other.stats()["clients"] == 1)
        stuck.close()


def test_a_server_without_descriptors_goes_on_accepting(other, connect) -> None:
    server = psutil.Process(int(other.server.split(":")[1]))
    limits = server.rlimit(psutil.RLIMIT_NOFILE)
    server.rlimit(psutil.RLIMIT_NOFILE, (server.num_fds() + 5, limits[1]))
    raws = [socket.socket(socket.AF_UNIX) for _ in range(12)]
    for raw in raws:
        raw.connect(_path(other))
    until(lambda: "a client must wait" in other._address.log.read_text())
    _answered(other, 7)
    for raw in raws:
        raw.close()
    server.rlimit(psutil.RLIMIT_NOFILE, limits)
    with connect() as again:
        assert again.server == other.server


def _mischief(rng: random.Random, path: str) -> None:
    """One connection that sends something wrong, and is then closed, at once or after listening."""
    hello = _frame(Kind.HELLO, wire.encode_json(HELLO))
    good = _embed(_row(3), _row(SLOW, IMAGE_TOKEN, grid=(2, 2)))
    damaged = bytearray(good)
    for _ in range(rng.randint(1, 20)):
        damaged[rng.randrange(wire.HEAD_SIZE, len(good))] = rng.randrange(256)
    kind = rng.choice(list(Kind))
    huge = wire.pack_head(kind, rng.choice([1 << 20, 1 << 33, (1 << 64) - 1]))
    what = [
        rng.randbytes(rng.randint(1, 400)),
        hello[: rng.randrange(len(hello))],
        hello + good[: rng.randrange(len(good))],
        hello + rng.randbytes(rng.randint(1, 400)),
        hello + huge + rng.randbytes(1000),
        hello + bytes(damaged),
        hello + _frame(Kind.EMBED, rng.randbytes(rng.randint(0, 300))),
        hello + _frame(kind, wire.encode_json({"a": [1] * rng.randint(0, 500)})),
        good + hello,
        hello + hello,
        hello + _frame(Kind.ANSWER, b"") + good,
        hello + good + good + good + good + good,
    ]
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(0.2)
        raw.connect(path)
        try:
            raw.sendall(rng.choice(what))
            if rng.random() < 0.5:
                raw.shutdown(socket.SHUT_WR)
            if rng.random() < 0.7:
                _end(raw)
        except (TimeoutError, BrokenPipeError):
            pass


def test_whatever_is_sent_the_server_serves_the_others(connect) -> None:
    rng = random.Random(20)
    with connect(dataclasses.replace(SERVING, frame_timeout_seconds=2.0)) as other:
        _answered(other, 1)
        server = psutil.Process(int(other.server.split(":")[1]))
        before = server.memory_info().rss
        for number in range(1, 101):
            _mischief(rng, _path(other))
            if number % 10 == 0:
                _answered(other, number)
        until(lambda: other.stats()["clients"] == 1)
        assert server.is_running()
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        assert peak - before < 100 * MEBIBYTE
