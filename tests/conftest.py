"""One Spark session for the whole test run, and lakes in fresh folders."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SCHEMAS = itertools.count()

_TEST_CONF = [
    "spark.conf.spark.driver.extraJavaOptions=-XX:+UseSerialGC",
    "spark.conf.spark.sql.shuffle.partitions=2",
    "spark.conf.spark.python.daemon.module=tests.spark.preloaded_daemon",
    # Nobody looks at what is over; the plans would fill the heap.
    "spark.conf.spark.ui.retainedJobs=20",
    "spark.conf.spark.ui.retainedStages=20",
    "spark.conf.spark.ui.retainedTasks=200",
    "spark.conf.spark.sql.ui.retainedExecutions=5",
]


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A local session with two slots and one retry a task, as `make demo` uses it."""
    from jobs.driver.session import open_session
    from jobs.settings.load import load_settings

    if shutil.which("java") is None:
        pytest.fail(
            "Java 17 is needed for the Spark tests and was not found on PATH; run make test"
        )
    warehouse = tmp_path_factory.mktemp("warehouse")
    settings = load_settings(
        sets=[
            "spark.master=local[2,4]",
            "spark.driver_memory=2g",
            f"spark.conf.spark.sql.warehouse.dir={warehouse}",
            *_TEST_CONF,
        ],
        env={},
    )
    session = open_session(settings, quick=True)  # many small queries, each seen once
    yield session
    session.stop()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GME-architecture checkpoint with random weights."""
    from udfs.gme.scratch import write_scratch_checkpoint

    path = tmp_path_factory.mktemp("checkpoint")
    texts = [f"a {colour} {kind}" for colour in ("red", "blue") for kind in ("mug", "kite", "shoe")]
    write_scratch_checkpoint(path, seed=0, hidden=64, layers=2, texts=texts)
    return path


@contextmanager
def lake_opener(spark, root: Path) -> Iterator[Callable]:
    """open_lake("a.b=c", …) opens the lake in `root` under a schema of its own."""
    from jobs.lake.lake import Lake
    from jobs.lake.sql_catalog import publish_catalog
    from jobs.settings.load import load_settings
    from tests.lake_settings import lake_of

    schema, default = f"gme_{next(_SCHEMAS)}", root

    def open_one(*sets: str, root: Path | None = None, published: bool = True) -> Lake:
        settings = load_settings(
            sets=[f"lake.root={root or default}", f"lake.schema={schema}", *sets], env={}
        )
        lake = lake_of(spark, settings)
        if published:
            publish_catalog(lake)
        return lake

    yield open_one
    spark.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    # What Delta knows of tables that are gone: 6 MB a lake, of a heap that lasts for a hundred of them.
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()


@pytest.fixture
def open_lake(spark, tmp_path: Path) -> Iterator[Callable]:
    """open_lake("a.b=c", …) opens a lake in this test's folder under a schema of its own."""
    with lake_opener(spark, tmp_path / "lake") as opener:
        yield opener
