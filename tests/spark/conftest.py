"""Small lakes with a registered model and drawn source tables; those that several tests begin with are made once."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import lake_opener
from tests.spark.index_vectors import append_vectors, build, model_of, release, unit

IVF_PQ = ("index.factory=OPQ8_32,IVF{nlist},PQ8x4fs", "index.nlist=8", "index.shards=3")
SOURCE_SCHEMA = "id string, title string, description string, image binary, price double"


def picture(number: int, *, size: int = 56) -> bytes:
    """A small PNG whose colours depend on the number."""
    image = Image.new(
        "RGB", (size, size), (number * 37 % 256, number * 91 % 256, number * 53 % 256)
    )
    image.paste((255 - number % 256, 10, 200), (number % 20, 5, 30 + number % 20, 40))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def source_rows(numbers: range | list[int]) -> list[tuple]:
    """(id, title, description, image, price) rows, all different."""
    return [(f"p{n}", f"thing {n}", f"a thing numbered {n}", picture(n), float(n)) for n in numbers]


@dataclass
class Shop:
    """A source table and the lake that embeds it."""

    spark: Any
    open_lake: Callable
    table: str
    checkpoint: Path
    sets: list[str] = field(default_factory=list)

    def write(
        self, rows: list[tuple], *, files: int = 1, mode: str = "append", cdf: bool = False
    ) -> None:
        frame = self.spark.createDataFrame(rows, SOURCE_SCHEMA).repartition(files)
        writer = frame.write.format("delta").mode(mode)
        if cdf:
            writer = writer.option("delta.enableChangeDataFeed", "true")
        writer.save(self.table)

    def lake(self, *sets: str):
        return self.open_lake(
            f"source.table={self.table}",
            f"model.checkpoint={self.checkpoint}",
            "model.profile=tiny",
            "serving.threads=1",
            *self.sets,
            *sets,
        )

    def register(self, lake):
        """Make the checkpoint the champion, as other tests' are under this name; returns (registry, model)."""
        from jobs.lake.registry import Registry
        from jobs.stages.register import describe_checkpoint
        from tests.lake_settings import settings_of

        settings = settings_of(lake)
        registry = Registry(settings)
        return registry, registry.register(describe_checkpoint(settings.model), alias="champion")

    def embed(self, *sets: str):
        """Register the checkpoint (once) and run embed_table; returns (lake, report)."""
        from tests.lake_settings import embed_source

        lake = self.lake(*sets)
        _, report = embed_source(lake, *self.register(lake))
        return lake, report

    def vectors(self, lake) -> dict[str, Any]:
        """vectors rows by id; fails where an id has two."""
        rows = lake.read("vectors").collect()
        by_id = {row.id: row for row in rows}
        assert len(by_id) == len(rows), "an id has more than one vector row"
        return by_id


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow store for all tests: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def shop(spark, open_lake, checkpoint: Path, tracking_uri: str, tmp_path: Path) -> Shop:
    sets = [f"mlflow.tracking_uri={tracking_uri}"]
    return Shop(spark, open_lake, str(tmp_path / "products"), checkpoint, sets)


class Lakes:
    """Lakes that several tests begin with: made once a process, when first asked for, and copied by their files."""

    def __init__(self, spark, folder: Path, checkpoint: Path, tracking_uri: str) -> None:
        self._spark, self._folder, self._checkpoint = spark, folder, checkpoint
        self._sets = [f"mlflow.tracking_uri={tracking_uri}"]

    @contextmanager
    def new_shop(self, name: str) -> Iterator[Shop]:
        """A shop in a new lake `<folder>/<name>`, which its source table lies in, so that both are copied together."""
        root = self._folder / name
        with lake_opener(self._spark, root) as opener:
            yield Shop(
                self._spark, opener, str(root / "products"), self._checkpoint, list(self._sets)
            )

    def copy(self, name: str, to: Path) -> None:
        """The lake `name` as a new one in `to`; of one that nobody has made yet its property makes it."""
        shutil.copytree(self._folder / name, to)

    @cached_property
    def embedded(self) -> str:
        """Six rows from two commits of a table with a change feed, p0 to p5, embedded."""
        with self.new_shop("embedded") as shop:
            shop.write(source_rows(range(4)), cdf=True)
            shop.write(source_rows(range(4, 6)))
            shop.embed()
        return "embedded"

    @cached_property
    def released(self) -> str:
        """Twelve rows in two files, p0 to p11, and a broken one, embedded, indexed exactly and released."""
        with self.new_shop("released") as shop:
            shop.write([*source_rows(range(12)), ("bad", None, None, b"<html>", 0.0)], files=2)
            lake, _ = shop.embed()
            release(lake)
        return "released"

    @cached_property
    def sharded(self) -> str:
        """1,500 vectors of 32 dimensions, model-a, with an index of IVF_PQ."""
        with lake_opener(self._spark, self._folder / "sharded") as opener:
            lake = opener(*IVF_PQ)
            append_vectors(lake, unit(1500, 32), model_id="model-a")
            build(lake, model_of("model-a", 32))
        return "sharded"


@pytest.fixture(scope="session")
def lakes(
    spark, checkpoint: Path, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Lakes:
    return Lakes(spark, tmp_path_factory.mktemp("lakes"), checkpoint, tracking_uri)


@pytest.fixture
def embedded(lakes: Lakes, shop: Shop, tmp_path: Path) -> Shop:
    """The shop in a copy of `Lakes.embedded`."""
    return in_copy(shop, lakes, lakes.embedded, tmp_path)


@pytest.fixture
def released(lakes: Lakes, shop: Shop, tmp_path: Path) -> Shop:
    """The shop in a copy of `Lakes.released`."""
    return in_copy(shop, lakes, lakes.released, tmp_path)


def in_copy(shop: Shop, lakes: Lakes, name: str, folder: Path) -> Shop:
    """A test's shop in a copy of a lake that has its source table."""
    lakes.copy(name, folder / "lake")
    shop.table = str(folder / "lake" / "products")
    shop.register(shop.lake())
    return shop
