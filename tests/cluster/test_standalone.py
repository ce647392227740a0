"""Real executors, real kills: one model each, the same vectors, and nothing left."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cluster.standalone import Application, Processes, StandaloneCluster, rows_embedded, until
from tests.embed_specs import embed_spec
from udfs.gme.scratch import write_scratch_checkpoint
from udfs.specs import EmbedSpec, ServingSpec

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
ROWS, FILES = 240, 24
WORDS = [
    "red",
    "blue",
    "mug",
    "kite",
    "shoe",
    "lamp",
    "striped",
    "plain",
    "dotted",
    "old",
    "new",
    "small",
    "large",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts long enough that a job takes seconds, in FILES files and so in as many tasks."""
    folder = tmp_path_factory.mktemp("source")
    words = random.Random(0)
    for number in range(FILES):
        keys = [f"{number}-{n}" for n in range(ROWS // FILES)]
        texts = [" ".join(words.choices(WORDS, k=100)) for _ in keys]
        nothing = pa.nulls(len(keys), pa.string())
        columns = {
            "key": keys,
            "text": texts,
            "image": nothing.cast(pa.binary()),
            "image_uri": nothing,
            "instruction": nothing,
            "is_query": nothing.cast(pa.bool_()),
        }
        pq.write_table(pa.table(columns), folder / f"{number:02}.parquet")
    return folder


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> EmbedSpec:
    path = tmp_path_factory.mktemp("checkpoint")
    write_scratch_checkpoint(path, texts=[" ".join(WORDS)], hidden=192, layers=4)
    return embed_spec(path, serving=ServingSpec(device="cpu", threads=1))


@pytest.fixture(scope="module")
def idle(
    tmp_path_factory: pytest.TempPathFactory, source: Path, heavy: EmbedSpec
) -> Iterator[tuple[Application, Path, float]]:
    """A local application without worker reuse that has done one job; also when it was done."""
    processes = Processes(tmp_path_factory.mktemp("idle"))
    conf = {"spark.master": "local[2]", "spark.python.worker.reuse": "false"}
    with Application(processes, heavy, source=source, conf=conf) as application:
        path = processes.folder / "first.json"
        application.start(path)
        application.wait(path)
        yield application, path, time.monotonic()
    until(lambda: not processes.leftovers(), seconds=10, what="everything is gone")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Processes:
    return Processes(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def cluster(
    processes: Processes, source: Path, heavy: EmbedSpec, idle: object
) -> Iterator[Application]:
    """An application with two executors of one core; nothing of it is left when it has ended."""
    with StandaloneCluster(processes) as standalone:
        conf = {
            "spark.master": standalone.url,
            "spark.executor.cores": "1",
            "spark.executor.memory": "512m",
            "spark.cores.max": "2",
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        }
        with Application(processes, heavy, source=source, conf=conf) as application:
            yield application
        until(lambda: not processes.leftovers(), seconds=10, what="everything is gone")


@pytest.fixture(scope="module")
def undisturbed(cluster: Application, processes: Processes) -> dict[str, dict]:
    """The rows of a job in which nothing was killed, by key."""
    path = processes.folder / "undisturbed.json"
    cluster.start(path)
    return cluster.wait(path)


def _same(found: dict[str, dict], expected: dict[str, dict]) -> None:
    assert found.keys() == expected.keys()
    assert {row["status"] for row in found.values()} == {"ok"}
    for key, row in found.items():
        np.testing.assert_allclose(row["embedding"], expected[key]["embedding"], atol=2e-6)


def test_two_executors_load_two_models_and_both_work(
    undisturbed: dict[str, dict], processes: Processes
) -> None:
    rows = Counter(row["server"] for row in undisturbed.values())
    assert len(undisturbed) == ROWS
    assert len(rows) == 2
    assert min(rows.values()) > ROWS / 5
    assert len(processes.servers()) == 2


def test_a_killed_server_costs_a_retry_and_no_vector(
    cluster: Application, undisturbed: dict[str, dict], processes: Processes
) -> None:
    path = processes.folder / "server_killed.json"
    victim = processes.servers()[0]
    before = rows_embedded(victim)
    cluster.start(path)
    until(lambda: rows_embedded(victim) >= before + 30, seconds=60, what="the job is under way")
    victim.kill()
    found = cluster.wait(path)
    _same(found, undisturbed)
    known = {row["server"] for row in undisturbed.values()}
    assert len({row["server"] for row in found.values()} - known) == 1  # one new load
    assert len(processes.servers()) == 2


def test_a_killed_executor_costs_a_retry_and_no_vector(
    cluster: Application, undisturbed: dict[str, dict], processes: Processes
) -> None:
    path = processes.folder / "executor_killed.json"
    victims = {server.pid: rows_embedded(server) for server in processes.servers()}
    executor = processes.find("CoarseGrainedExecutorBackend")[0]
    cluster.start(path)
    until(
        lambda: all(rows_embedded(s) >= victims[s.pid] + 30 for s in processes.servers()),
        seconds=60,
        what="the job is under way",
    )
    executor.kill()
    until(
        lambda: len({s.pid for s in processes.servers()} & victims.keys()) == 1,
        seconds=5,
        what="the dead executor's server is gone",
    )
    _same(cluster.wait(path), undisturbed)


def test_a_model_stays_loaded_over_70_idle_seconds_without_worker_reuse(
    idle: tuple[Application, Path, float],
) -> None:
    application, first, done = idle
    time.sleep(max(0.0, done + 70 - time.monotonic()))
    second = first.with_name("second.json")
    application.start(second)
    rows = application.wait(second)
    servers = {row["server"] for row in [*rows.values(), *json.loads(first.read_text())]}
    assert len(servers) == 1
