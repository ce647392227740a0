"""Views and SQL functions of the lake, registered in the session's catalog from conf/sql."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.driver.settings import conf_names, conf_text

if TYPE_CHECKING:
    from jobs.driver.lake import Lake

# Spark before 4.2 has no vector functions; this is the same sum, slower.
_PORTABLE_INNER_PRODUCT = (
    "aggregate(zip_with(embedding, query, (x, y) -> CAST(x AS DOUBLE) * y), CAST(0 AS DOUBLE), "
    "(total, product) -> total + product)"
)


def publish_catalog(lake: Lake) -> list[str]:
    """Create or replace every view and function of conf/sql in the lake's schema; returns their names."""
    native = lake.spark.catalog.functionExists("vector_inner_product")
    inner = "vector_inner_product(embedding, query)" if native else _PORTABLE_INNER_PRODUCT
    names = []
    for file in conf_names("sql"):
        statement = conf_text(f"sql/{file}").format(schema=lake.schema, inner_product=inner)
        lake.spark.sql(statement)
        names.append(lake.name(file.removesuffix(".sql")))
    return names
