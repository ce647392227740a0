"""Views and SQL functions of the lake, registered in the session's catalog from conf/sql."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, cast

from jobs.driver.lake import is_path, read_table, sql_name, table_version
from jobs.driver.settings import conf_names, conf_text
from jobs.driver.sql import literal
from udfs.errors import LakeError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.udtf import UserDefinedTableFunction

    from jobs.driver.lake import Lake

log = logging.getLogger("gme_lake")

# Spark before 4.2 has no vector functions; this is the same sum, slower.
_PORTABLE_INNER_PRODUCT = (
    "IF(size(embedding) = size(query), aggregate(zip_with(embedding, query, (x, y) -> CAST(x AS DOUBLE) * y), "
    "CAST(0 AS DOUBLE), (total, product) -> total + product), "
    "raise_error('query and vectors have different lengths'))"
)


def publish_catalog(lake: Lake) -> list[str]:
    """Create or replace every view and function of conf/sql in the lake's schema; returns their names."""
    _register_table_functions(lake.spark)
    native = lake.spark.catalog.functionExists("vector_inner_product")
    inner = "vector_inner_product(embedding, query)" if native else _PORTABLE_INNER_PRODUCT
    names = []
    for file in conf_names("sql"):
        values = {"schema": lake.schema, "root": literal(lake.root), "inner_product": inner}
        statement = conf_text(f"sql/{file}").format(**values)
        lake.spark.sql(statement)
        names.append(lake.name(file.removesuffix(".sql")))
    return names + _publish_source_views(lake)


def create_source_view(
    lake: Lake, table: str, *, row_id: str, vector_column: str, model_column: str
) -> str:
    """`<schema>.<source>_with_vectors`: every source row, the released model's vector beside it or null.

    Raises LakeError where the source has columns of the names that the vector and its model are to get.
    """
    taken = {vector_column, model_column} & set(read_table(lake.spark, table).columns)
    if taken:
        raise LakeError(
            f"{table} already has a column {', '.join(sorted(taken))}: set embed.vector_column and "
            "embed.model_column to other names, or embed.write_back to columns"
        )
    last = table.rstrip("/").rsplit("/" if is_path(table) else ".", 1)[-1]
    name = lake.name(re.sub(r"\W", "_", last) + "_with_vectors")
    lake.spark.sql(
        f"CREATE OR REPLACE VIEW {name} AS SELECT s.*, v.vector_id, v.embedding AS {vector_column}, "
        f"v.model_id AS {model_column} FROM {sql_name(table)} s "
        f"LEFT JOIN {lake.name('current_vectors')} v ON CAST(s.`{row_id}` AS STRING) = v.id"
    )
    return name


def _publish_source_views(lake: Lake) -> list[str]:
    """The views of all sources that were embedded: a session without a metastore has forgotten them."""
    from pyspark.sql import functions as F

    runs = lake.read("run_events").where("job = 'embed_table' AND status = 'succeeded'")
    runs = runs.withColumn("source_table", lake.resolved("source_table"))
    latest = runs.groupBy("source_table").agg(F.max_by("settings", "started_at").alias("settings"))
    names = []
    for row in latest.orderBy("source_table").collect():
        settings = json.loads(row.settings)
        if settings["embed"]["write_back"] != "view":
            continue
        columns = {name: settings["embed"][name] for name in ("vector_column", "model_column")}
        try:
            table_version(lake.spark, row.source_table)
            row_id = settings["source"]["id"]
            names.append(create_source_view(lake, row.source_table, row_id=row_id, **columns))
        except LakeError as error:
            log.warning("no view of vectors beside %s: %s", row.source_table, error)
    return names


def _register_table_functions(spark: SparkSession) -> None:
    """The Python functions that conf/sql/vector_search.sql is written with."""
    from pyspark.sql.functions import udtf

    from udfs.sql import FACTS_OUTPUT, HITS_OUTPUT, IndexFacts, IndexHits

    for name, body, output in (
        ("gme_index_facts", IndexFacts, FACTS_OUTPUT),
        ("gme_index_hits", IndexHits, HITS_OUTPUT),
    ):
        # Deterministic, or Spark refuses them in a lateral join.
        function = cast("UserDefinedTableFunction", udtf(body, returnType=output))
        spark.udtf.register(name, function.asDeterministic())
