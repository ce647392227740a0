"""One server for all clients: merging, order, backpressure, and every way to die."""

import asyncio
import dataclasses
import os
import signal
import socket
import stat
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit.serving.conftest import MODEL, SERVING, servers, until
from tests.unit.serving.fake_server import BROKEN, IMAGE_TOKEN, REJECTED, SLOW, TOKENIZER, FakeModel
from udfs.errors import CanaryError, CheckpointError, ServingError
from udfs.gme.prepare import Prepared
from udfs.serving import window
from udfs.serving.address import server_address
from udfs.serving.client import ServerClient
from udfs.serving.launch import open_server
from udfs.serving.window import Loaded, ModelThread
from udfs.specs import CanarySpec, ModelSpec, ServingSpec

Watched = subprocess.Popen[bytes]
pytestmark = [pytest.mark.usefixtures("folder"), pytest.mark.slow]  # each starts a server


def _rows(*first: int, tokens: int = 3, patches: int = 0) -> list[Prepared]:
    grid = (2, patches // 2) if patches else None
    pixels = np.ones((patches, 3, 14, 14), np.uint8) if patches else None
    places = [IMAGE_TOKEN] * (patches // 4)
    return [Prepared(np.array([i] * tokens + places, np.int32), pixels, grid) for i in first]


def _pid(client: ServerClient) -> int:
    return int(client.server.split(":")[1])


@pytest.fixture
def connect(watched: Watched) -> Callable[..., ServerClient]:
    def connect(model: ModelSpec = MODEL, serving: ServingSpec = SERVING) -> ServerClient:
        return open_server(model, serving, tokenizer=TOKENIZER, watch=watched.pid)

    return connect


def test_answers_come_in_order_with_bad_rows_beside_good_ones(connect) -> None:
    with connect() as client:
        requests = [_rows(1, REJECTED, 2), _rows(3, tokens=7), _rows(4, patches=8)]
        one, two, three = client.embed_stream(iter(requests))
    assert one.errors == [None, "out_of_memory: of this row: alone", None]
    assert one.vectors[:, 0].tolist() == [1, REJECTED, 2]
    assert two.vectors[0, :2].tolist() == [3, 7]
    assert three.vectors[0, :3].tolist() == [4, 3 + 2, 8 * 588]
    assert {answer.server for answer in (one, two, three)} == {client.server}


def test_racing_workers_share_one_server_and_one_window(connect) -> None:
    answers, busy = {}, threading.Barrier(6)

    def requests(number: int) -> Iterator[list[Prepared]]:
        if number == 0:
            yield _rows(SLOW)  # keeps the model busy, and is sent before the others send theirs
        busy.wait(timeout=10)
        if number != 0:
            yield _rows(number)
        yield _rows(number + 100)

    def work(number: int) -> None:
        with connect(dataclasses.replace(MODEL, path="slow")) as client:
            answers[number] = list(client.embed_stream(requests(number)))

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.server for pair in answers.values() for answer in pair}) == 1
    assert len(servers()) == 1
    for number, pair in answers.items():
        assert pair[1].vectors[0, 0] == number + 100
    assert max(pair[1].vectors[0, 3] for pair in answers.values()) > 1  # rows of several clients


def test_a_client_may_send_ahead_and_the_server_holds_bounded_bytes(connect) -> None:
    serving = dataclasses.replace(SERVING, queue_bytes=3_000_000)
    requests = [_rows(number, patches=1500) for number in range(30)]  # 0.9 MB each, 26 MB together
    results = {}

    def work(name: int) -> None:
        with connect(serving=serving) as client:
            found = [answer.vectors[0, 0] for answer in client.embed_stream(iter(requests))]
            results[name] = (found, client.stats())

    threads = [threading.Thread(target=work, args=[name]) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    for found, stats in results.values():
        assert found == list(range(30))
        assert 0 < stats["queue_bytes_peak"] <= 3_000_000
    assert len(results) == 4


def test_a_request_above_the_queue_limit_still_passes(connect) -> None:
    with connect(serving=dataclasses.replace(SERVING, queue_bytes=1000)) as client:
        answers = list(client.embed_stream(iter([_rows(5, patches=52), _rows(6, patches=52)])))
    assert [answer.vectors[0, 0] for answer in answers] == [5, 6]


def test_a_client_that_leaves_early_harms_nobody(connect) -> None:
    with connect() as other:
        for _ in range(3):
            leaver = connect()
            stream = leaver.embed_stream(iter([_rows(SLOW), _rows(1), _rows(2)]))
            next(stream)
            leaver.close()
        assert next(other.embed_stream(iter([_rows(9)]))).vectors[0, 0] == 9
        until(lambda: other.stats()["clients"] == 1)


def test_a_killed_server_is_an_error_and_the_next_worker_starts_another(connect) -> None:
    with connect() as client, pytest.raises(ServingError, match="was lost"):
        stream = client.embed_stream(iter([_rows(1), _rows(2), _rows(SLOW), _rows(3)]))
        next(stream)
        os.kill(_pid(client), signal.SIGKILL)
        list(stream)
    with connect() as again:
        assert again.server != client.server
        assert next(again.embed_stream(iter([_rows(8)]))).vectors[0, 0] == 8


def test_a_failed_model_is_told_and_replaced(connect) -> None:
    with connect() as client, pytest.raises(ServingError, match="illegal memory access"):
        list(client.embed_stream(iter([_rows(BROKEN)])))
    with connect() as again:
        assert again.server != client.server
        assert next(again.embed_stream(iter([_rows(1)]))).vectors[0, 0] == 1


def test_a_refusal_by_canaries_is_told_again_without_another_load(connect) -> None:
    """Spark tries a task four times, whatever it failed of."""
    said = set()
    for pause in (0, 0.7, 0.7):  # a server that could not load for another reason leaves at once
        threading.Event().wait(pause)
        with pytest.raises(CanaryError, match=r"process \d+ makes other vectors") as refused:
            connect(dataclasses.replace(MODEL, path="refused"))
        said.add(str(refused.value))
    assert len(said) == len(servers()) == 1


def test_a_server_that_refuses_does_not_keep_the_model(monkeypatch) -> None:
    monkeypatch.setattr(
        window.log, "disabled", True
    )  # pytest keeps what is logged, frames included
    kept = []

    def load() -> Loaded:
        model = FakeModel()
        kept.append(weakref.ref(model))
        raise CanaryError("other vectors")

    async def refuse() -> None:
        thread = ModelThread(load, window_tokens=1)
        thread.start()
        with pytest.raises(CanaryError, match="other vectors"):
            await thread.loaded
        thread.join()
        assert kept[0]() is None

    asyncio.run(refuse())


def test_it_leaves_when_idle_and_on_sigterm_and_removes_its_files(connect, folder: Path) -> None:
    serving = dataclasses.replace(SERVING, idle_seconds=0.2)
    with connect(serving=serving) as client:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        sockets = list(folder.glob("*.sock"))
        assert [stat.S_IMODE(path.stat().st_mode) for path in sockets] == [0o600]
        threading.Event().wait(0.5)  # a connected client keeps it, even a silent one
        assert next(client.embed_stream(iter([_rows(1)]))).vectors[0, 0] == 1
    until(lambda: not servers() and not list(folder.iterdir()))
    client = connect()
    os.kill(_pid(client), signal.SIGTERM)
    until(lambda: not servers() and not list(folder.iterdir()))
    client.close()


def test_clients_that_meet_a_leaving_server_get_another(connect) -> None:
    serving = dataclasses.replace(SERVING, idle_seconds=0.01)
    seen = set()
    for turn in range(100):
        with connect(serving=serving) as client:
            seen.add(next(client.embed_stream(iter([_rows(1)]))).server)
        if len(seen) > 1:
            break
        threading.Event().wait(0.008 + turn % 5 / 500)  # around the moment at which it leaves
    assert len(seen) > 1  # it did leave meanwhile, and no client noticed


def test_it_does_not_outlive_the_watched_process(connect, watched: Watched, folder: Path) -> None:
    with connect(dataclasses.replace(MODEL, path="slow")):
        watched.kill()
        until(lambda: not servers() and not list(folder.iterdir()), seconds=2)


def test_a_stale_socket_is_no_hindrance(connect, folder: Path) -> None:
    address = server_address(MODEL, SERVING, gpu="")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(address.socket))
    address.lock.touch()
    with connect() as client:
        assert next(client.embed_stream(iter([_rows(1)]))).vectors[0, 0] == 1


def test_a_missing_checkpoint_is_told_to_every_waiting_worker(connect) -> None:
    errors = []

    def work() -> None:
        try:
            connect(dataclasses.replace(MODEL, path="missing"))
        except CheckpointError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["no checkpoint folder at /nowhere: give a folder on local disk"] * 3


def test_a_crash_during_the_start_shows_the_log(connect, folder: Path) -> None:
    with pytest.raises(ServingError, match=r"exit code 7(.|\n)*last words of a crash"):
        connect(dataclasses.replace(MODEL, path="crash"))
    for path in folder.iterdir():  # what a crashed process cannot remove, the next server replaces
        path.unlink()


def test_another_width_is_refused(connect) -> None:
    with pytest.raises(ServingError, match="vectors of 8 numbers expected"):
        connect(dataclasses.replace(MODEL, dim=8))


def test_the_server_refuses_another_model_and_another_protocol(connect) -> None:
    with connect() as client:
        path = str(server_address(MODEL, SERVING, gpu="").socket)
        wrong = dataclasses.replace(MODEL, model_id="f" * 16)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        with pytest.raises(ServingError, match=r"asked for .*ffff.* serves .*0123456789abcdef"):
            ServerClient(
                connection,
                client._address,
                model=wrong,
                tokenizer=TOKENIZER,
                deadline=time.monotonic() + 5,
            )


def test_lakes_share_a_server_where_their_canaries_are_the_same() -> None:
    """Each lake has its own copy of the file; other canaries, and another limit, are another server's."""

    def name(uri: str, sha256: str = "a" * 64, cosine: float = 0.9995) -> str:
        model = dataclasses.replace(MODEL, canaries=CanarySpec(uri, sha256, cosine))
        return server_address(model, SERVING, gpu="").name

    assert name("/one/c.json") == name("/other/c.json")
    names = {name("/one/c.json"), name("/one/c.json", "b" * 64), name("/one/c.json", cosine=0.9)}
    assert len(names | {server_address(MODEL, SERVING, gpu="").name}) == 4


def test_a_server_gets_the_canaries_of_its_model(connect, folder: Path) -> None:
    canaries = CanarySpec("/lake/canaries/c.json", "a" * 64, 0.9995)
    with connect(dataclasses.replace(MODEL, canaries=canaries)) as client:
        assert client.load_report == '{"python": "fake"}'
        assert repr(canaries) in next(folder.glob("*.log")).read_text()


def test_the_model_gets_its_own_threads(connect, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Spark does with task.cpus
    with connect(serving=dataclasses.replace(SERVING, threads=3)):
        assert "threads 3" in next(folder.glob("*.log")).read_text()


def test_a_folder_that_others_can_enter_is_refused(connect, folder: Path) -> None:
    folder.mkdir(mode=0o755)
    with pytest.raises(ServingError, match="mode 0700"):
        connect()
