"""Views and SQL functions of the lake, registered in the session's catalog from conf/sql."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from jobs.lake.source_views import publish_source_views
from jobs.lake.sql import literal
from jobs.settings.conf import conf_names, conf_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.udtf import UserDefinedTableFunction

    from jobs.lake.lake import Lake

# Spark before 4.2 has no vector functions; this is the same sum, slower.
_PORTABLE_INNER_PRODUCT = (
    "IF(size(embedding) = size(query), aggregate(zip_with(embedding, query, (x, y) -> CAST(x AS DOUBLE) * y), "
    "CAST(0 AS DOUBLE), (total, product) -> total + product), "
    "raise_error('query and vectors have different lengths'))"
)


def publish_catalog(lake: Lake) -> list[str]:
    """Create or replace every view and function of conf/sql in the lake's schema; returns their names.

    The views of sources too, unless the catalog keeps those that embed_table has made. Whatever has become of a
    source, opening the lake goes on without its view, with a warning.
    """
    _register_table_functions(lake.spark)
    native = lake.spark.catalog.functionExists("vector_inner_product")
    inner = "vector_inner_product(embedding, query)" if native else _PORTABLE_INNER_PRODUCT
    names = []
    for file in conf_names("sql"):
        text = conf_text(f"sql/{file}")
        root = literal(lake.root)
        lake.spark.sql(text.format(schema=lake.schema, root=root, inner_product=inner))
        names.append(lake.name(file.removesuffix(".sql")))
    return names if lake.settings.lake.managed else names + publish_source_views(lake)


def _register_table_functions(spark: SparkSession) -> None:
    """The Python functions that conf/sql/vector_search.sql is written with."""
    from pyspark.sql.functions import udtf

    from udfs.search.sql import FACTS_OUTPUT, HITS_OUTPUT, IndexFacts, IndexHits

    for name, body, output in (
        ("gme_index_facts", IndexFacts, FACTS_OUTPUT),
        ("gme_index_hits", IndexHits, HITS_OUTPUT),
    ):
        # Deterministic, or Spark refuses them in a lateral join.
        function = cast("UserDefinedTableFunction", udtf(body, returnType=output))
        spark.udtf.register(name, function.asDeterministic())
