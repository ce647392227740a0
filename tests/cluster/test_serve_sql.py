"""gme-lake serve-sql as its users meet it: beeline, a DB-API client, many at once, those who leave, and a new release."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from impala.dbapi import connect
from impala.error import OperationalError

from jobs.lake.releases import promote
from tests.cluster.standalone import ROOT, SPARK_HOME, until
from tests.cluster.test_kill_driver import QUICK, sets
from tests.spark.index_vectors import append_vectors, build, model_of, released, unit

pytestmark = [pytest.mark.cluster, pytest.mark.spark, pytest.mark.timeout(1500)]

MODEL, DIM, CLIENTS = "model-a", 16, 8
PASSWORD = "of-the-keystore"
NEAREST = (
    "SELECT id FROM {function}((SELECT embedding FROM gme.current_vectors WHERE id = {id}), 3)"
)
# The released vectors, their model, and the model that is released: of one release all three.
SHOWN = "SELECT count(*), max(model_id), (SELECT max_by(model_id, release_id) FROM gme.releases) FROM gme.current_vectors"
# It takes both slots for days: whoever asks anything meanwhile waits.
ENDLESS = (
    "SELECT sum(a.id + b.id) FROM range(0, 1000000000000, 1, 4) a CROSS JOIN range(0, 1000, 1, 2) b"
)
SHORT = "SELECT sum(id) FROM range(0, 100, 1, 4)"
AWKWARD = "it's 5 % of a \\ \u00fc"

# A client that asks, says so once its statement runs, and waits.
CLIENT = """
import sys, time
from impala.dbapi import connect
port, statement = sys.argv[1:]
cursor = connect("127.0.0.1", int(port), auth_mechanism="PLAIN", user="analyst", password="any", use_ssl=True).cursor()
cursor.execute_async(statement)
while cursor.status() != "RUNNING_STATE":
    time.sleep(.1)
time.sleep(2)
print("asked", flush=True)
time.sleep(600)
"""


class Server:
    """gme-lake serve-sql in a process group of its own, over TLS, with the lake as its schema `gme`."""

    def __init__(self, folder: Path, root: str) -> None:
        self.keystore = make_keystore(folder)
        arguments = [
            f"lake.root={root}",
            "serve_sql.port=0",
            "spark.conf.spark.hive.server2.use.SSL=true",
            f"spark.conf.spark.hive.server2.keystore.path={self.keystore}",
            f"spark.conf.spark.hive.server2.keystore.password={PASSWORD}",
            "spark.master=local[2,4]",
            *QUICK,
        ]
        self.log = folder / "server.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.driver.cli", "serve-sql", "--json", *sets(arguments)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, self.log.read_text("utf-8")
        self.told = json.loads(said)

    def connect(self):
        """A connection of a DB-API client."""
        return connect(
            host="127.0.0.1",
            port=self.told["port"],
            auth_mechanism="PLAIN",
            user="analyst",
            password="any",
            timeout=120,
            use_ssl=True,
        )

    def ask(self, statement: str, parameters: dict | None = None) -> list[tuple]:
        """Rows of a statement from a connection of its own."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def client(self, statement: str) -> subprocess.Popen:
        """A client in a process of its own whose statement runs."""
        words = [sys.executable, "-c", CLIENT, str(self.told["port"]), statement]
        client = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None and client.stdout.readline() == "asked\n"
        return client

    def beeline(self, *statements: str) -> subprocess.CompletedProcess[str]:
        """What beeline prints and says of some statements, as tab-separated lines."""
        words = [word for statement in statements for word in ("-e", statement)]
        url = f"{self.told['url']};sslTrustStore={self.keystore};trustStorePassword={PASSWORD}"
        return subprocess.run(
            [
                str(SPARK_HOME / "bin" / "beeline"),
                *("-u", url, "-n", "analyst", "--outputformat=tsv2", "--silent=true"),
                *words,
            ],
            env=os.environ | {"SPARK_HOME": str(SPARK_HOME)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def stop(self) -> tuple[int, str]:
        """Status and what was printed after the first line, of a server that SIGTERM ends."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said


@pytest.fixture
def lake(open_lake, tmp_path: Path):
    """200 vectors, indexed and released."""
    lake = open_lake("index.factory=Flat", f"mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db")
    append_vectors(lake, unit(200, DIM), model_id=MODEL)
    release_newest(lake, MODEL)
    return lake


@pytest.fixture
def server(lake, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, lake.root)
    yield server
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def make_keystore(folder: Path) -> Path:
    """A key of this machine for TLS, which nobody has signed."""
    file = folder / "keystore.p12"
    words = "keytool -genkeypair -alias server -keyalg RSA -storetype PKCS12 -dname CN=127.0.0.1 -ext SAN=ip:127.0.0.1"
    given = ["-keystore", str(file), "-storepass", PASSWORD]
    subprocess.run([*words.split(), *given], check=True, capture_output=True)
    return file


def release_newest(lake, model_id: str) -> None:
    """Index a model's vectors and release them."""
    report, _ = build(lake, model_of(model_id, DIM))
    released(lake, promote, index_id=report.spec.index_id, model_id=model_id)


def nearest(function: str) -> str:
    """Which three rows are nearest to one, by a function."""
    return NEAREST.format(function=function, id="%(id)s")


def test_analysts_are_served_until_the_server_is_stopped(lake, server: Server):
    started = {p.pid: p for p in psutil.Process(server.process.pid).children(recursive=True)}
    assert server.told["url"] == f"jdbc:hive2://127.0.0.1:{server.told['port']}/;ssl=true"

    # What somebody finds who has beeline alone.
    # The password of the key is not told.
    said = server.beeline(
        "SET spark.hive.server2.keystore.password",
        "SHOW VIEWS IN gme",
        "DESCRIBE gme.coverage",
        "SHOW USER FUNCTIONS",
        NEAREST.format(function="gme.knn", id="'model-a-7'"),
    )
    assert said.returncode == 0, said.stderr
    assert "redacted" in said.stdout and PASSWORD not in said.stdout
    assert "gme\tcurrent_vectors\tfalse" in said.stdout
    assert "with_vector\tbigint\trows that have a vector" in said.stdout
    assert "vector_search" in said.stdout and "model-a-7" in said.stdout

    # What a BI tool asks for before anybody writes SQL, the values of a prepared statement, an error, a cancel.
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.get_tables(database_name="gme")
        tables = {row[2]: (row[3], row[4]) for row in cursor.fetchall()}
        kind, comment = tables["current_vectors"]
        assert kind == "VIEW" and "Vectors have length 1" in comment
        assert tables["vectors"][0] == "TABLE"
        columns = cursor.get_table_schema("current_vectors", database_name="gme")
        assert [tuple(c[:2]) for c in columns][:2] == [("id", "STRING"), ("vector_id", "BIGINT")]
        cursor.execute("SELECT %(text)s", {"text": AWKWARD})
        assert cursor.fetchall() == [(AWKWARD,)]
        with pytest.raises(OperationalError, match=r"k must be 1 to 1000"):
            cursor.execute(
                "SELECT * FROM vector_search((SELECT max(embedding) FROM gme.current_vectors), 0)"
            )
        cursor.execute_async(ENDLESS)
        until(lambda: cursor.status() == "RUNNING_STATE", seconds=60, what="the statement runs")
        time.sleep(2)
        cursor.cancel_operation()
        assert server.ask(SHORT) == [(4950,)]
    exactly = server.ask(nearest("gme.knn"), {"id": "model-a-7"})
    assert exactly[0] == ("model-a-7",)
    assert server.ask(nearest("vector_search"), {"id": "model-a-7"}) == exactly

    # Nor does the statement of a client that is gone keep the slots.
    gone = server.client(ENDLESS)
    gone.kill()
    gone.communicate()
    assert server.ask(SHORT) == [(4950,)]

    # Many at once get what each of them asked for.
    ids = [f"model-a-{number}" for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        found = list(clients.map(lambda id: server.ask(nearest("gme.knn"), {"id": id}), ids))
    assert [rows[0] for rows in found] == [(id,) for id in ids]

    # Another process releases while a client asks: each statement sees one release, the next one the new.
    over = threading.Event()
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(ask_until, server, over)
        try:
            append_vectors(lake, unit(50, DIM, seed=1), model_id="model-b")
            release_newest(lake, "model-b")
            after = server.ask(SHOWN)
        finally:
            over.set()
        assert set(asking.result()) <= {(200, MODEL, MODEL), (50, "model-b", "model-b")}
    assert after == [(50, "model-b", "model-b")]
    assert server.ask(nearest("vector_search"), {"id": "model-b-7"})[0] == ("model-b-7",)

    # Stopped while a client is connected and asks: nothing stays.
    last = server.client(ENDLESS)
    started |= {p.pid: p for p in psutil.Process(server.process.pid).children(recursive=True)}
    assert server.stop() == (0, ""), server.log.read_text("utf-8")
    last.kill()
    last.communicate()
    until(
        lambda: not any(p.is_running() and p.status() != "zombie" for p in started.values()),
        seconds=30,
        what="every process of the server ends",
    )


def ask_until(server: Server, over: threading.Event) -> list[tuple]:
    """All that one client sees until it is told to end."""
    seen = []
    while not over.is_set():
        seen += server.ask(SHOWN)
    return seen
