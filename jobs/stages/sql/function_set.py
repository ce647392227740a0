"""What makes the SQL functions of a session, and the view by which a served session tells the others of its application."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql.functions import udtf
from pyspark.sql.types import StructType
from pyspark.sql.udtf import AnalyzeResult, UserDefinedTableFunction

from jobs.driver.on_executors import register_in_sql
from jobs.driver.session import RUNTIME_CONF
from udfs.errors import LakeError
from udfs.sql.bodies import embed_rows, search_rows
from udfs.sql.service_client import Prepare, ServiceAddress, ask

EMBED, SEARCH, PREPARE = "gme_lake_embed", "gme_lake_search", "gme_lake_prepare"
# Seen by the sessions of this application alone, and gone with it. In no catalog: it has the service's key.
_VIEW = "gme_lake_functions"
_TOLD = "python STRING, host STRING, port INT, key BINARY, source STRING, statements ARRAY<STRING>"


@dataclass(frozen=True)
class FunctionSet:
    """Where the service of the functions listens, the table whose columns are shown, CREATE FUNCTION of each."""

    address: ServiceAddress
    source: str | None
    statements: tuple[str, ...]


def create_functions(spark: SparkSession, functions: FunctionSet) -> None:
    """Make the functions of a session, which is in the application of the service."""
    address = functions.address
    register_in_sql(spark, EMBED, embed_rows, address=address)
    register_in_sql(spark, SEARCH, search_rows, address=address, source=functions.source)
    # Deterministic, or Spark refuses it in a lateral join.
    prepare = cast("UserDefinedTableFunction", udtf(_prepare_function(address)))
    spark.udtf.register(PREPARE, prepare.asDeterministic())
    for statement in functions.statements:
        spark.sql(statement)


def _prepare_function(address: ServiceAddress) -> type:
    """A table function of one row, whose analysis, in the driver and before any task runs, lets the service open what is
    released: a statement's tasks may hold all places, and would wait for Spark jobs that get none.
    """

    class PrepareSearch:
        @staticmethod
        def analyze() -> AnalyzeResult:
            ask(address, Prepare())
            return AnalyzeResult(StructType().add("prepared", "boolean"))

        def eval(self) -> Iterator[tuple[bool]]:
            yield (True,)

    return PrepareSearch


def tell_sessions(spark: SparkSession, functions: FunctionSet) -> None:
    """Let every session of the application make the functions.

    A frame, not a statement: Spark writes statements into its log of events and shows them in its UI.
    """
    address = functions.address
    told = (_python(), address.host, address.port, bytearray(address.key))
    row = (*told, functions.source, list(functions.statements))
    spark.createDataFrame([row], _TOLD).createOrReplaceGlobalTempView(_VIEW)


def create_told_functions(spark: SparkSession) -> None:
    """Make the functions of a session by what another session of its application tells.

    Raises LakeError where none tells anything, or where it runs another Python than this process.
    """
    try:
        (told,) = spark.table(f"global_temp.{_VIEW}").collect()
    except AnalysisException as error:
        if error.getCondition() != "TABLE_OR_VIEW_NOT_FOUND":
            raise
        raise LakeError(
            "no lake is served where this session is: connect to what gme-lake serve-sql prints with "
            "--set serve_sql.connect_port=15002. In a process of its own jobs.open_lake makes the functions"
        ) from error
    if told.python != _python():
        raise LakeError(
            f"functions are made by Python {_python()} here and run by Python {told.python} where the lake is served; "
            "Spark wants the same: use that one here"
        )
    for name, value in RUNTIME_CONF.items():
        spark.conf.set(name, value)
    address = ServiceAddress(told.host, told.port, bytes(told.key))
    create_functions(spark, FunctionSet(address, told.source, tuple(told.statements)))


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
