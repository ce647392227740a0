"""Small lakes with a registered model and drawn source tables."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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

    def embed(self, *sets: str):
        """Register the checkpoint (once) and run embed_table; returns (lake, report)."""
        from jobs.lake.registry import Registry
        from jobs.lake.runs import open_run
        from jobs.stages.embed.job import embed_table
        from jobs.stages.register import describe_checkpoint
        from tests.lake_settings import settings_of

        lake = self.lake(*sets)
        settings = settings_of(lake)
        registry = Registry(settings)
        model = registry.register(describe_checkpoint(settings.model), alias="champion")
        with open_run(lake, registry, job="embed_table") as run:
            report = embed_table(
                lake,
                run,
                model=model,
                source=settings.source,
                embed=settings.embed,
                serving=settings.serving.spec(),
            )
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
