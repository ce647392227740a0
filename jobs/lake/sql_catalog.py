"""Views and SQL functions of the lake, registered in the session's catalog from conf/sql."""

from __future__ import annotations

import hashlib
import re
from typing import cast

from pyspark.sql import SparkSession
from pyspark.sql.functions import udtf
from pyspark.sql.udtf import UserDefinedTableFunction

from jobs.lake.lake import Lake
from jobs.lake.run_events import NEWEST_EVENT
from jobs.lake.source_views import publish_source_views
from jobs.lake.sql import literal
from jobs.lake.tables import TABLES
from jobs.settings.conf import conf_names, conf_text
from udfs.search.sql import FACTS_OUTPUT, HITS_OUTPUT, IndexFacts, IndexHits

# A property of the schema, and of a session that has the temporary ones: what they were made from.
_MARK = "gme_lake.published"
_MADE = re.compile(r"^CREATE OR REPLACE (VIEW|FUNCTION) \{schema\}\.(\w+)", re.MULTILINE)
_TEMPORARY = re.compile(r"^CREATE OR REPLACE TEMPORARY FUNCTION (\w+)", re.MULTILINE)
_USED = re.compile(r"\{schema\}\.(\w+)")

# Spark before 4.2 has no vector functions; this is the same sum, slower.
_PORTABLE_INNER_PRODUCT = (
    "IF(size(embedding) = size(query), aggregate(zip_with(embedding, query, (x, y) -> CAST(x AS DOUBLE) * y), "
    "CAST(0 AS DOUBLE), (total, product) -> total + product), "
    "raise_error('query and vectors have different lengths'))"
)


def publish_catalog(lake: Lake) -> None:
    """Make the lake's tables, views and functions known to whoever writes SQL in this session, or with this catalog.

    Views and functions of conf/sql are made once for each schema, which keeps a mark of what they were made from;
    temporary ones once for each session. With the first go the views of sources, unless the catalog keeps those that
    embed_table has made; later runs look after theirs. Whatever has become of a source, opening the lake goes on
    without its view, with a warning.
    """
    _register_table_functions(lake.spark)
    native = lake.spark.catalog.functionExists("vector_inner_product")
    inner = "vector_inner_product(embedding, query)" if native else _PORTABLE_INNER_PRODUCT
    texts = [conf_text(f"sql/{file}") for file in conf_names("sql")]
    root = literal(lake.root)
    filled = [
        t.format(schema=lake.schema, root=root, inner_product=inner, newest_event=NEWEST_EVENT)
        for t in texts
    ]
    made_from = [
        lake.root,
        *filled,
        *(repr(table.columns) for table in TABLES),
    ]  # views name them all
    mark = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:16]
    of_session = [statement for statement in filled if _TEMPORARY.search(statement)]
    if _mark_of(lake) != mark or not _is_whole(lake, texts):
        _publish(lake, [statement for statement in filled if statement not in of_session], texts)
        lake.spark.sql(
            f"ALTER SCHEMA {lake.schema} SET DBPROPERTIES ({literal(_MARK)} = {literal(mark)})"
        )
    names = _TEMPORARY.findall("\n".join(of_session))
    there = all(lake.spark.catalog.functionExists(name) for name in names)
    if not there or lake.spark.conf.get(_MARK, None) != mark:  # one session may open several lakes
        for statement in of_session:
            lake.spark.sql(statement)
        lake.spark.conf.set(_MARK, mark)


def _publish(lake: Lake, statements: list[str], texts: list[str]) -> None:
    used = set(_USED.findall("\n".join(texts)))
    for table in TABLES:
        if table.name in used or lake.lies_there(table):
            lake.open_table(table)
    for statement in statements:
        lake.spark.sql(statement)
    if not lake.managed:
        publish_source_views(lake)


def _is_whole(lake: Lake, texts: list[str]) -> bool:
    """Whether nobody has dropped a view or function since."""
    made = {name: kind for text in texts for kind, name in _MADE.findall(text)}
    views = {row.viewName for row in lake.spark.sql(f"SHOW VIEWS IN {lake.schema}").collect()}
    return all(
        name in views if kind == "VIEW" else lake.spark.catalog.functionExists(lake.name(name))
        for name, kind in made.items()
    )


def is_published(lake: Lake) -> bool:
    """Whether the schema has the lake's views and functions."""
    return _mark_of(lake) is not None


def _mark_of(lake: Lake) -> str | None:
    rows = lake.spark.sql(f"DESCRIBE SCHEMA EXTENDED {lake.schema}").collect()
    properties = next((row[1] for row in rows if row[0] == "Properties"), "")
    found = re.search(rf"{re.escape(_MARK)},([0-9a-f]+)", properties)
    return found[1] if found else None


def _register_table_functions(spark: SparkSession) -> None:
    """The Python functions that conf/sql/vector_search.sql is written with."""
    for name, body, output in (
        ("gme_index_facts", IndexFacts, FACTS_OUTPUT),
        ("gme_index_hits", IndexHits, HITS_OUTPUT),
    ):
        # Deterministic, or Spark refuses them in a lateral join.
        function = cast("UserDefinedTableFunction", udtf(body, returnType=output))
        spark.udtf.register(name, function.asDeterministic())
