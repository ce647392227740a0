"""Spark's own exact search over Parquet: `ORDER BY vector_inner_product` query by query, and its NEAREST join."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.bench.processes import ProcessMeter
from tests.bench.vectors_table import open_lake, write_parquet

ORDERED_QUERIES, JOINED_QUERIES = 8, 16
ROLES = ("driver", "jvm", "workers")


def spark_lines(folder: Path, xb: np.ndarray, xq: np.ndarray, k: int) -> Iterator[tuple[str, dict]]:
    """(name, figures with `found` rows) of each that this Spark has; says on stdout which it has not."""
    import pyspark

    lake = open_lake(folder, "spark.master=local[2]")
    spark = lake.spark
    files = write_parquet(folder / "vectors.parquet", xb)
    spark.read.parquet(str(files)).createOrReplaceTempView("bench_base")
    if not spark.catalog.functionExists("vector_inner_product"):
        print(
            f"Spark {pyspark.__version__} has no vector_inner_product: its exact searches are left out"
        )
        return
    yield (
        "Spark, ORDER BY vector_inner_product",
        _measured(lambda x: _ordered(spark, x, k), xq[:ORDERED_QUERIES]),
    )
    if not hasattr(spark.range(1), "nearestByJoin"):
        print(f"Spark {pyspark.__version__} has no NEAREST join: it is left out")
        return
    yield "Spark, NEAREST join", _measured(lambda x: _joined(spark, x, k), xq[:JOINED_QUERIES])


def _measured(search, xq: np.ndarray) -> dict:
    search(xq[:1])
    with ProcessMeter(interval=0.25) as meter:
        start = time.perf_counter()
        found = search(xq)
        wall = time.perf_counter() - start
    return {
        "found": found,
        "queries": len(xq),
        "core_seconds": sum(meter.cpu.get(role, 0.0) for role in ROLES),
        "wall_seconds": wall,
        "peak_bytes": sum(meter.rss.get(role, 0) for role in ROLES),
    }


def _ordered(spark, xq: np.ndarray, k: int) -> np.ndarray:
    found = []
    for x in xq:
        query = ",".join(f"CAST({value!r} AS FLOAT)" for value in x.tolist())
        rows = spark.sql(
            f"SELECT id FROM bench_base ORDER BY vector_inner_product(embedding, array({query})) DESC LIMIT {k}"
        ).collect()
        found.append([int(row.id.split("-")[1]) for row in rows])
    return np.array(found)


def _joined(spark, xq: np.ndarray, k: int) -> np.ndarray:
    rows = [(n, x.tolist()) for n, x in enumerate(xq)]
    queries = spark.createDataFrame(rows, "query int, asked array<float>")
    queries.createOrReplaceTempView("bench_queries")
    near = spark.sql(
        f"SELECT query, id FROM bench_queries JOIN bench_base EXACT NEAREST {k} "
        "BY SIMILARITY vector_inner_product(embedding, asked)"
    ).collect()
    found: dict[int, list[int]] = {n: [] for n in range(len(xq))}
    for row in near:
        found[row.query].append(int(row.id.split("-")[1]))
    return np.array([found[n] for n in range(len(xq))])
