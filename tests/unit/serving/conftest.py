"""Servers with a fake model: started in milliseconds, in a temp dir of the test, and gone after it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from udfs.serving import launch
from udfs.specs import ModelSpec, ServingSpec

MODEL = ModelSpec(path="fine", model_id="0123456789abcdef", dim=4, weights_sha256="0" * 64)
SERVING = ServingSpec(device="cpu", threads=1, idle_seconds=30, start_timeout_seconds=20)


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for `condition`, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def servers(module: str = "fake_server") -> list[psutil.Process]:
    """Living server processes that descend from or were orphaned by this test process."""
    found = []
    for process in psutil.process_iter():
        try:
            if module not in " ".join(process.cmdline()) or process.status() == "zombie":
                continue
            if process.environ().get("GME_TEST_RUN") == str(os.getpid()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


@pytest.fixture
def watched() -> Iterator[subprocess.Popen[bytes]]:
    """The process that the servers of a test must not outlive; it stands for Spark's daemon."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: subprocess.Popen[bytes]
) -> Iterator[Path]:
    """Where the sockets lie; empty again after the watched process ended, and no server lives."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(launch, "SERVER_MODULE", "tests.unit.serving.fake_server")
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "blockmgr"))
    monkeypatch.setenv("GME_TEST_RUN", str(os.getpid()))
    path = tmp_path / f"gme-lake-{os.getuid()}"
    yield path
    watched.kill()
    watched.wait()
    until(lambda: not servers())
    left = list(path.iterdir()) if path.exists() else []
    assert left == []
