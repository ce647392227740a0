"""Views and SQL functions of the lake, registered in the session's catalog from conf/sql."""

from __future__ import annotations

import hashlib
import re

from jobs.lake.lake import Lake
from jobs.lake.run_events import NEWEST_EVENT
from jobs.lake.source_views import publish_source_views
from jobs.lake.sql import literal
from jobs.lake.sql_functions import KNN, SIMILARITY, arguments_sql, comment_sql, function_rows
from jobs.lake.tables import TABLES
from jobs.settings.conf import conf_names, conf_text

# A property of the schema: what its views and functions were made from.
_MARK = "gme_lake.published"
_MADE = re.compile(r"^CREATE OR REPLACE (VIEW|FUNCTION) \{schema\}\.(\w+)", re.MULTILINE)
_USED = re.compile(r"\{schema\}\.(\w+)")

# Spark before 4.2 has no vector functions; this is the same sum, slower.
_PORTABLE_INNER_PRODUCT = (
    "IF(size(embedding) = size(query), aggregate(zip_with(embedding, query, (x, y) -> CAST(x AS DOUBLE) * y), "
    "CAST(0 AS DOUBLE), (total, product) -> total + product), "
    "raise_error('query and vectors have different lengths'))"
)


def publish_catalog(lake: Lake) -> None:
    """Make the lake's tables, views and plain SQL functions known to whoever has this catalog.

    They are made once for each schema, which keeps a mark of what they were made from. With the first go the views of
    sources, unless the catalog keeps those that embed_table has made; later runs look after theirs. Whatever has become
    of a source, opening the lake goes on without its view, with a warning. Functions with Python in them are a session's:
    see `jobs.stages.sql`.
    """
    native = lake.spark.catalog.functionExists("vector_inner_product")
    texts = [conf_text(f"sql/{file}") for file in conf_names("sql")]
    inner = "vector_inner_product(embedding, query)" if native else _PORTABLE_INNER_PRODUCT
    statements = [
        text.format(
            schema=lake.schema,
            inner_product=inner,
            newest_event=NEWEST_EVENT,
            functions=function_rows(lake.schema),
            arguments_of_knn=arguments_sql(KNN),
            comment_of_knn=comment_sql(KNN, schema=lake.schema),
            arguments_of_similarity=arguments_sql(SIMILARITY),
            comment_of_similarity=comment_sql(SIMILARITY, schema=lake.schema),
        )
        for text in texts
    ]
    # Views name all columns of tables.
    made_from = [lake.root, *statements, *(repr(table.columns) for table in TABLES)]
    mark = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:16]
    if _mark_of(lake) != mark or not _is_whole(lake, texts):
        _publish(lake, statements, texts)
        lake.spark.sql(
            f"ALTER SCHEMA {lake.schema} SET DBPROPERTIES ({literal(_MARK)} = {literal(mark)})"
        )


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
