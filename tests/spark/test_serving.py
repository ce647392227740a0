"""One model for all tasks of an executor, job after job."""

from pathlib import Path

from jobs.driver.on_executors import on_executors
from tests.embed_specs import embed_spec
from udfs.embed.batches import EMBED_INPUT, embed_batches


def test_three_jobs_in_a_row_load_the_model_once(spark, checkpoint: Path) -> None:
    servers: set[str] = set()
    spec = embed_spec(checkpoint)
    for job in range(3):
        rows = [(f"{job}-{n}", f"thing {n}", None, None, None, False) for n in range(40)]
        rows.append((f"{job}-bad", None, None, None, None, None))
        source = spark.createDataFrame(rows, EMBED_INPUT.ddl).repartition(4)  # two tasks at a time
        found = on_executors(source, embed_batches, spec=spec).rows()
        assert sorted(row.key for row in found) == sorted(row[0] for row in rows)
        assert {row.status for row in found} == {"ok", "empty"}
        assert sum(row.embedding is not None for row in found) == 40
        servers |= {row.server for row in found if row.status == "ok"}
    assert len(servers) == 1
