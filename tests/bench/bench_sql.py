"""What SQL functions take in one session: the first call, then others, beside the same statement without Python.

    python -m tests.bench.bench_sql --config demo.yaml

`hits written in` is the statement that Spark is left with where the hits are known: what it takes is Spark's own, and
no function of the lake can be faster. Each call has words of its own, as a result is kept nowhere.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from jobs import open_lake
from jobs.lake.lake import Lake
from jobs.lake.sql import table_sql
from jobs.stages.embed.last_source import last_source

CALLS = 10
MANY = 1000
WORDS = ("red", "blue", "striped", "small", "old", "round", "wooden", "plain", "tall", "soft")


def main() -> None:
    """Open the lake, call each function, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", action="append", default=[])
    start = time.perf_counter()
    lake = open_lake(*parser.parse_args().config)
    print(f"the lake was opened in {time.perf_counter() - start:.1f} s")
    rows = lake.read("vectors").count()
    table = Table(
        title=f"Seconds of a statement, {rows:,} rows, {platform.processor() or platform.machine()}, "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )
    for column in ("statement", "first", "median", "longest"):
        table.add_column(column, justify="left" if column == "statement" else "right")
    for name, statement in statements(lake).items():
        first, *others = (seconds(lake, statement(number)) for number in range(CALLS + 1))
        table.add_row(name, *(f"{s:.2f}" for s in (first, statistics.median(others), max(others))))
    Console(width=100).print(table)


def statements(lake: Lake) -> dict[str, Callable[[int], str]]:
    """By name, what a numbered call asks."""
    model_id = lake.read("releases").orderBy("release_id", ascending=False).first().model_id
    current = lake.name("current_vectors")
    ids = [row.id for row in lake.spark.table(current).select("id").limit(CALLS + 1).collect()]
    source = last_source(lake, model_id=model_id)
    known = ", ".join(f"'{row_id}'" for row_id in ids)
    many = f"(SELECT concat('mug ', id) AS text FROM range({MANY})) q"

    def text(number: int) -> str:
        return f"a {WORDS[number % len(WORDS)]} mug number {number}"

    return {
        "hits written in": lambda n: (
            f"SELECT h.id, s.title FROM (SELECT explode(array({known})) AS id) h "
            f"LEFT JOIN {table_sql(source.table)} s ON s.{source.id} = h.id WHERE {n} >= 0"
        ),
        "embed_text": lambda n: f"SELECT embed_text('{text(n)}')",
        "search_text": lambda n: (
            f"SELECT rank, id, title FROM search_text('{text(n)}') ORDER BY rank"
        ),
        "search_text, filtered": lambda n: (
            f"SELECT id FROM search_text('{text(n)}', filter => 'id > ''a''')"
        ),
        "hybrid_search": lambda n: (
            f"SELECT rank, id, title FROM hybrid_search('{text(n)}') ORDER BY rank"
        ),
        "similar_rows": lambda n: (
            f"SELECT rank, id, title FROM similar_rows('{ids[n]}') ORDER BY rank"
        ),
        "vector_search": lambda n: (
            "SELECT id FROM vector_search((SELECT max(embedding) FROM "
            f"{current} WHERE id = '{ids[n]}'))"
        ),
        "knn": lambda n: (
            f"SELECT id FROM {lake.name('knn')}((SELECT max(embedding) FROM {current} "
            f"WHERE id = '{ids[n]}'), 10)"
        ),
        f"search_text of {MANY:,} texts, LATERAL": lambda n: (
            f"SELECT max(s.score + {n}) FROM {many}, LATERAL search_text(q.text, 5) s"
        ),
    }


def seconds(lake: Lake, statement: str) -> float:
    """Wall seconds of a statement and its rows."""
    start = time.perf_counter()
    assert lake.spark.sql(statement).collect()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
