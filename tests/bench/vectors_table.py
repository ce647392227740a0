"""A lake whose `vectors` hold given arrays, for benches that need no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MODEL_ID = "bench"
ROWS_PER_FILE = 50_000


def released_vectors(config: str) -> np.ndarray:
    """float32 (n, d), in the order of their ids: the vectors that the lake of a settings file has released."""
    from jobs import open_lake

    lake = open_lake(config)
    rows = lake.spark.sql(f"SELECT embedding FROM {lake.name('current_vectors')} ORDER BY id")
    column = rows.toArrow()["embedding"].combine_chunks()
    return np.asarray(column.flatten(), np.float32).reshape(len(column), -1)


def write_parquet(folder: Path, xb: np.ndarray) -> Path:
    """xb float32 (n, d) as Parquet files of (id, embedding)."""
    folder.mkdir(parents=True)
    for start in range(0, len(xb), ROWS_PER_FILE):
        block = xb[start : start + ROWS_PER_FILE]
        offsets = np.arange(0, block.size + 1, block.shape[1], dtype=np.int32)
        vectors = pa.ListArray.from_arrays(offsets, block.reshape(-1))
        names = pa.array([f"row-{n}" for n in range(start, start + len(block))])
        table = pa.table({"id": names, "embedding": vectors})
        pq.write_table(table, folder / f"{start:09}.parquet", use_dictionary=["id"])
    return folder


def append_parquet(lake, folder: Path) -> None:
    """One commit of all rows to `vectors`, in the order of the files."""
    lake.spark.read.parquet(str(folder)).createOrReplaceTempView("bench_vectors")
    lake.spark.sql(
        f"INSERT INTO {lake.name('vectors')} "
        "(model_id, id, content_hash, status, error, embedding, run_id, embedded_at) "
        f"SELECT '{MODEL_ID}', id, id, 'ok', NULL, embedding, 'bench', current_timestamp() FROM bench_vectors"
    )


def open_lake(root: Path, *sets: str):
    """A lake in `root` on all cores of this machine, with its MLflow store beside it."""
    from jobs.driver.session import open_session
    from jobs.lake.sql_catalog import publish_catalog
    from jobs.settings.load import load_settings
    from tests.lake_settings import lake_of

    settings = load_settings(
        sets=[
            f"lake.root={root / 'lake'}",
            f"mlflow.tracking_uri=sqlite:///{root / 'mlflow.db'}",
            "spark.driver_memory=4g",
            f"spark.conf.spark.sql.warehouse.dir={root / 'warehouse'}",
            *sets,
        ],
        env={},
    )
    lake = lake_of(open_session(settings), settings)
    publish_catalog(lake)
    return lake
