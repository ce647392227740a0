"""The demo runs, small: every step, in order, hits that are right, and a page with real pictures."""

import random

import pytest

from tests.lake_settings import settings_of
from udfs.drawing import held_out

pytestmark = pytest.mark.spark


def test_demo_runs_every_step(spark, open_lake, tmp_path, tracking_uri):
    from jobs.lake.registry import Registry
    from jobs.settings.load import load_settings
    from jobs.stages.demo.job import Demo, run_demo

    demo = load_settings(files=["demo.yaml"], env={})
    root = tmp_path / "demo"
    lake = open_lake(
        f"mlflow.tracking_uri={tracking_uri}",
        f"model.name={demo.model.name}",
        f"model.checkpoint={demo.model.checkpoint}",
        f"model.profile={demo.model.profile}",
        "serving.threads=1",
        "embed.files_per_batch=2",
        "draw.rows=700",
        "draw.files=2",
        "index.nlist=8",
        "index.shards=2",
        *(f"source.table={root}/products", f"search.queries={root}/queries"),
        *(f"search.output={root}/results", f"search.report={root}/report.html"),
        root=root,
    )
    said: list[str] = []
    settings = settings_of(lake)
    page = run_demo(Demo(lake, Registry(settings), settings, say=said.append))
    spoken = "\n".join(said)
    assert "9 embedded, 0 copied" in spoken and "3 deleted" in spoken
    assert "nothing changed" in spoken
    written = page.read_text("utf-8")
    assert written.count("data:image/jpeg") > 50 and "toy" in written
    hits = spark.read.format("delta").load(f"{root}/results").where("rank <= 10").collect()
    assert len({hit.query_id for hit in hits}) == 9 and len(hits) == 90

    first = {hit.query_id: hit.id for hit in hits if hit.rank == 1}
    asked = random.Random(f"demo queries {settings.draw.seed}").sample(sorted(held_out()), 9)
    products = {
        row.id: row for row in spark.read.format("delta").load(f"{root}/products").collect()
    }
    alike = [
        sum(
            products[first[name]][attribute] == value
            for attribute, value in wanted._asdict().items()
        )
        for name, wanted in zip(sorted(first), asked, strict=True)
    ]
    # 700 of 1,152 combinations are in the table: the very product, or one that differs in an attribute.
    assert sum(count >= 2 for count in alike) >= 8, alike
