"""One model for all tasks of an executor, job after job."""

from functools import partial
from pathlib import Path

from tests.embed_specs import embed_spec
from udfs.embed.batches import EMBED_INPUT, EMBED_OUTPUT, embed_batches


def test_three_jobs_in_a_row_load_the_model_once(spark, checkpoint: Path) -> None:
    servers: set[str] = set()
    function = partial(embed_batches, spec=embed_spec(checkpoint))
    for job in range(3):
        rows = [(f"{job}-{n}", f"thing {n}", None, None, None, False) for n in range(40)]
        rows.append((f"{job}-bad", None, None, None, None, None))
        source = spark.createDataFrame(rows, EMBED_INPUT).repartition(4)  # two tasks at a time
        found = source.mapInArrow(function, EMBED_OUTPUT).collect()
        assert sorted(row.key for row in found) == sorted(row[0] for row in rows)
        assert {row.status for row in found} == {"ok", "empty"}
        assert sum(row.embedding is not None for row in found) == 40
        servers |= {row.server for row in found if row.status == "ok"}
    assert len(servers) == 1
