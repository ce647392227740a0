"""The SQL functions of a session: searches by text, picture, row or vector, over the lake that it opened last."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession, is_remote

from jobs.lake.lake import Lake, cause, read_table
from jobs.lake.releases import current_release
from jobs.lake.sql import identifier, literal, table_sql
from jobs.lake.sql_functions import (
    EMBED_IMAGE,
    EMBED_TEXT,
    HYBRID_SEARCH,
    SEARCH_BOTH,
    SEARCH_IMAGE,
    SEARCH_TEXT,
    SIMILAR_ROWS,
    VECTOR_SEARCH,
    SqlFunction,
    arguments_sql,
    comment_sql,
)
from jobs.settings.settings import Settings
from jobs.stages.embed.last_source import last_source
from jobs.stages.sql.function_set import EMBED, PREPARE, SEARCH, FunctionSet, create_functions
from jobs.stages.sql.searches import Searches
from jobs.stages.sql.service import SearchService
from udfs.errors import LakeError

log = logging.getLogger("gme_lake")

_OF_HITS = ("rank", "score", "id", "vector_id")
# What the Python functions take, as a struct: what a function has no argument for is null.
_CONTENT = {
    "text": "STRING",
    "image": "BINARY",
    "instruction": "STRING",
    "release": "INT",
    "stamp": "STRING",
}
_QUERY = _CONTENT | {
    "by_vector": "BOOLEAN",
    "hybrid": "BOOLEAN",
    "rrf_k": "INT",
    "vector": "ARRAY<FLOAT>",
    "own": "STRING",
    "model": "STRING",
    "k": "INT",
    "filter": "STRING",
    "min_score": "DOUBLE",
    "group_by": "STRING",
    "max_per": "INT",
    "freshness": "STRING",
}
# The same in all that a statement evaluates.
_STAMP = {"stamp": "unix_micros(current_timestamp())"}
_services: WeakKeyDictionary[SparkSession, SearchService] = WeakKeyDictionary()


def register_functions(lake: Lake, settings: Settings) -> FunctionSet:
    """Make the search and embedding functions of a session, over this lake, with the columns that the source has now.

    Queries are embedded on executors as `settings.serving` says, and searched in this process, which keeps the index of
    the release open. Whatever has become of the source, they are made, without its columns, with a warning. Gives what
    other sessions of the application are to be told. Raises LakeError where Spark's driver is another process.
    """
    if is_remote():
        raise LakeError(
            "the index is kept open in the process of Spark's driver, and this session's is behind Spark Connect: serve "
            "the lake there by gme-lake serve-sql --set serve_sql.connect_port=15002, and call jobs.register_functions "
            "in a session that is connected to it"
        )
    spark = lake.spark
    earlier = _services.pop(spark, None)
    if earlier is not None:
        earlier.close()
    host = spark.conf.get("spark.driver.host") or "127.0.0.1"
    bind = spark.conf.get("spark.driver.bindAddress", host) or host
    service = SearchService(Searches(lake, settings), bind=bind, host=host)
    source = _source_columns(lake)
    table = None if source is None else source.table
    functions = FunctionSet(service.address, table, tuple(function_statements(lake, source)))
    create_functions(spark, functions)
    service.prepares = True
    _services[spark] = service
    return functions


@dataclass(frozen=True)
class ShownSource:
    """The table that hits are shown with, its column of ids, and the columns that are shown."""

    table: str
    id: str
    shown: tuple[str, ...]


def _source_columns(lake: Lake) -> ShownSource | None:
    """The source of the released model, with columns that are not named as those of hits."""
    release = current_release(lake)
    if release is None:
        return None
    try:
        source = last_source(lake, model_id=release.model_id)
        if source is None:
            return None
        columns = read_table(lake.spark, source.table).columns
    except (LakeError, AnalysisException) as error:
        log.warning("SQL functions show no columns of the source: %s", cause(error))
        return None
    shown = tuple(name for name in columns if name.lower() not in _OF_HITS)
    return ShownSource(source.table, source.id, shown)


def function_statements(lake: Lake, source: ShownSource | None) -> Iterator[str]:
    """CREATE FUNCTION of each. Errors are values until the last line, where Spark says them as they are."""
    yield _search(lake, SEARCH_TEXT, {"text": "a.text"}, source)
    yield _search(lake, SEARCH_IMAGE, {"image": "a.image"}, source)
    yield _search(lake, SEARCH_BOTH, {"text": "a.text", "image": "a.image"}, source)
    row = {
        "own": "a.id",
        "vector": "v.vector",
        "model": "v.model_id",
        "by_vector": "a.id IS NOT NULL",
    }
    yield _search(lake, SIMILAR_ROWS, row, source)
    yield _search(lake, HYBRID_SEARCH, {"text": "a.text", "hybrid": "true"}, source)
    yield _search(lake, VECTOR_SEARCH, {"vector": "a.query", "by_vector": "true"}, source)
    yield _embed(lake, EMBED_TEXT, {"text": "text"})
    yield _embed(lake, EMBED_IMAGE, {"image": "image"})


def _search(
    lake: Lake, function: SqlFunction, query: dict[str, str], source: ShownSource | None
) -> str:
    """Arguments become columns first, as the functions of a lateral join cannot be given arguments."""
    values = {argument.name: f"a.{argument.name}" for argument in function.arguments} | query
    vector, columns, join = "", "", ""
    if function is SIMILAR_ROWS:  # one row, with or without the vector of the row that is named
        vector = (
            ", (SELECT max(embedding) AS vector, max(model_id) AS model_id "
            f"FROM {lake.name('current_vectors')} c WHERE c.id = similar_rows.id) v"
        )
    if source is not None:
        columns = "".join(f", {identifier('s', name)}" for name in source.shown)
        row_id = identifier("s", source.id)
        join = f"LEFT JOIN {table_sql(source.table)} s ON CAST({row_id} AS STRING) = h.hit.id"
    return (
        f"CREATE OR REPLACE TEMPORARY FUNCTION {identifier(function.name)}({arguments_sql(function)}) "
        f"RETURNS TABLE COMMENT {comment_sql(function, schema=lake.schema)} "
        f"RETURN SELECT /*+ BROADCAST(h) */ h.hit.rank, h.hit.score, h.hit.id, h.hit.vector_id{columns} "
        "FROM (SELECT explode(IF(found.error IS NULL, found.hits, "
        f"raise_error({literal(function.name + ': ')} || found.error))) AS hit "
        f"FROM (SELECT {SEARCH}(asked) AS found FROM (SELECT {struct_sql(_QUERY, values)} AS asked "
        f"FROM (SELECT {columns_sql(function)}) a{vector}, {PREPARE}() p))) h {join}"
    )


def _embed(lake: Lake, function: SqlFunction, content: dict[str, str]) -> str:
    """A scalar function has no FROM: what prepares it is a subquery, outside of what Spark hands to Python."""
    made = f"{EMBED}({struct_sql(_CONTENT, {'instruction': 'instruction'} | content)})"
    return (
        f"CREATE OR REPLACE TEMPORARY FUNCTION {identifier(function.name)}({arguments_sql(function)}) "
        f"RETURNS ARRAY<FLOAT> COMMENT {comment_sql(function, schema=lake.schema)} "
        f"RETURN IF((SELECT max(prepared) FROM {PREPARE}()), "
        f"IF({made}.error IS NULL, {made}.embedding, "
        f"raise_error({literal(function.name + ': ')} || {made}.error)), NULL)"
    )


def struct_sql(fields: dict[str, str], values: dict[str, str]) -> str:
    """A struct of these fields, cast to their types; what has no value is null."""
    values = _STAMP | values
    of_each = (
        f"'{name}', CAST({values.get(name, 'NULL')} AS {kind})" for name, kind in fields.items()
    )
    return f"named_struct({', '.join(of_each)})"


def columns_sql(function: SqlFunction) -> str:
    """The arguments of a function as columns, in its body."""
    return ", ".join(f"{function.name}.{a.name} AS {a.name}" for a in function.arguments)
