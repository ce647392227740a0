"""A Spark standalone cluster on this machine, the application that runs on it, and what they leave behind."""

import base64
import json
import os
import pickle
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pyspark

from udfs.gme.fingerprint import tokenizer_sha256
from udfs.serving.client import ServerClient
from udfs.serving.server import Options
from udfs.specs import EmbedSpec

ROOT = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent
CONF = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.pyspark.python": sys.executable,
    "spark.sql.execution.arrow.pythonUDF.columnarInput.enabled": "false",
    "spark.sql.files.openCostInBytes": "134217728",  # a task a file
}


def until(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Wait for `condition`, or fail with `what`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


class Processes:
    """Every process started below this object, found by a variable in its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "GME_TEST_RUN": str(folder),
            "TMPDIR": str(folder),
            "SPARK_HOME": str(SPARK_HOME),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(folder / "local"),
            "PYSPARK_PYTHON": sys.executable,
        }
        self.environment.pop("PYTHONPATH", None)

    def find(self, word: str) -> list[psutil.Process]:
        """Living processes of this run whose command line holds `word`."""
        found = []
        for process in psutil.process_iter():
            try:
                if word not in " ".join(process.cmdline()) or process.status() == "zombie":
                    continue
                if process.environ().get("GME_TEST_RUN") == str(self.folder):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                pass
        return found

    def servers(self) -> list[psutil.Process]:
        """Living model servers."""
        return self.find("udfs.serving.server")

    def leftovers(self) -> list[str]:
        """Server processes, Python workers, sockets, locks, logs."""
        serving = self.folder / f"gme-lake-{os.getuid()}"
        files = list(serving.iterdir()) if serving.exists() else []
        processes = self.servers() + self.find("pyspark.daemon")
        return [str(process.cmdline()) for process in processes] + [str(path) for path in files]


def rows_embedded(server: psutil.Process) -> int:
    """What a server counts, asked through its socket; 0 while it loads or after it went."""
    try:
        options = Options.parse(server.cmdline()[-1])
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(options.address.socket))
        deadline = time.monotonic() + 60
        tokenizer = tokenizer_sha256(Path(options.model.path) / "tokenizer.json")
        with ServerClient(
            connection,
            options.address,
            model=options.model,
            tokenizer=tokenizer,
            deadline=deadline,
        ) as c:
            return int(c.stats()["rows"])
    except (OSError, psutil.NoSuchProcess):
        return 0


class Application:
    """tests/cluster/app_embed.py in a process of its own; `udfs` reaches the executors as a zip file."""

    def __init__(
        self, processes: Processes, spec: EmbedSpec, *, source: Path, conf: dict[str, str]
    ) -> None:
        archive = processes.folder / "gme_lake.zip"
        with zipfile.ZipFile(archive, "w") as out:
            for path in sorted((ROOT / "udfs").rglob("*.py")):
                out.write(path, path.relative_to(ROOT))
        settings = {
            "conf": CONF | {"spark.submit.pyFiles": str(archive)} | conf,
            "source": str(source),
            "spec": base64.b64encode(pickle.dumps(spec)).decode(),
        }
        self._log = (processes.folder / "application.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/cluster/app_embed.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=processes.folder,
            env=processes.environment | {"PYTHONPATH": str(archive)},
        )
        assert self._read() == "ready"

    def start(self, path: Path) -> None:
        """Start a job that writes its rows to `path`."""
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()

    def wait(self, path: Path) -> dict[str, dict]:
        """The rows of that job by key."""
        assert self._read() == f"done {path}"
        rows = json.loads(path.read_text())
        assert len({row["key"] for row in rows}) == len(rows)
        return {row["key"]: row for row in rows}

    def _read(self) -> str:
        line = self._process.stdout.readline().strip()
        assert line, Path(self._log.name).read_text()[-3000:]
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._log.close()


class StandaloneCluster:
    """One master and two workers of one core each on 127.0.0.1."""

    def __init__(self, processes: Processes) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"spark://127.0.0.1:{port}"
        self._processes = processes
        self._port = str(port)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._daemon("master.Master", "--port", self._port)
        for number in range(2):
            folder = str(self._processes.folder / f"work{number}")
            options = ["--cores", "1", "--memory", "1g", "--work-dir", folder, self.url]
            self._daemon("worker.Worker", *options)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _daemon(self, name: str, *options: str) -> None:
        common = ["--host", "127.0.0.1", "--webui-port", "0"]
        log = self._stack.enter_context((self._processes.folder / f"{name}.log").open("ab"))
        process = subprocess.Popen(
            [
                str(SPARK_HOME / "bin/spark-class"),
                f"org.apache.spark.deploy.{name}",
                *common,
                *options,
            ],
            stdout=log,
            stderr=log,
            cwd=self._processes.folder,
            env=self._processes.environment | {"SPARK_DAEMON_MEMORY": "256m"},
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
