"""The demo runs, small: every step, in order, and a page with real pictures."""

import pytest

pytestmark = pytest.mark.spark


def test_demo_runs_every_step(spark, open_lake, tmp_path, tracking_uri):
    from jobs.driver.registry import Registry
    from jobs.driver.settings import load_settings
    from jobs.stages.demo import Demo, run_demo

    demo = load_settings(files=["demo.yaml"], env={})
    root = tmp_path / "demo"
    lake = open_lake(
        f"mlflow.tracking_uri={tracking_uri}",
        f"model.name={demo.model.name}",
        f"model.checkpoint={root}/checkpoint",
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
    page = run_demo(Demo(lake, Registry(lake.settings), say=said.append))
    spoken = "\n".join(said)
    assert "9 embedded, 0 copied" in spoken and "3 deleted" in spoken
    assert "nothing changed" in spoken
    written = page.read_text("utf-8")
    assert written.count("data:image/jpeg") > 50 and "random weights" in written
    hits = spark.read.format("delta").load(f"{root}/results").where("rank <= 10").collect()
    assert len({hit.query_id for hit in hits}) == 9 and len(hits) == 90
