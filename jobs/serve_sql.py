"""serve_sql: the lake's SQL for JDBC and Spark Connect clients, by Spark's servers in this process, until it is stopped."""

from __future__ import annotations

import functools
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

from jobs import publish
from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report
from jobs.settings.load import connect_token, hive_addresses
from jobs.settings.serve import ServeSqlSettings, is_loopback
from jobs.settings.settings import Settings
from udfs.errors import LakeError, SettingsError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from jobs.stages.sql.function_set import FunctionSet

log = logging.getLogger("gme_lake")

_SINGLE_SESSION = "spark.sql.hive.thriftServer.singleSession"
_LOOK_SECONDS = 2.0  # between looks whether the server still runs
# Hive's and Connect's settings that section serve_sql decides, and what to write instead.
_DECIDED = {
    "connect.grpc.binding.address": "set serve_sql.host",
    "connect.grpc.binding.port": "set serve_sql.connect_port",
    "hive.server2.thrift.bind.host": "set serve_sql.host",
    "hive.server2.thrift.port": "set serve_sql.port",
    "hive.server2.authentication": "set serve_sql.authentication",
    "hive.server2.transport.mode": "leave it out: the server speaks the binary protocol",
}
# Without these nobody could log in, and clients alone would be told.
_NEEDED = {
    "LDAP": "hive.server2.authentication.ldap.url",
    "CUSTOM": "hive.server2.custom.authentication.class",
}


@job(sections=("serve_sql", "search", "serving", "lake", "mlflow", "spark"))
def command(context: JobContext) -> Report:
    """Serve the lake's tables, views and functions to JDBC clients: beeline, SQL editors, BI tools.

    Clients share one session, which has the lake's temporary functions: SET, USE and temporary views of one are seen
    by all. They may do whatever this process may, changes of tables too. Prints the JDBC URL when clients may come and
    runs until Ctrl-C or SIGTERM, which is status 0. With serve_sql.connect_port Python clients come by Spark Connect
    as well, each to a session of its own, where jobs.register_functions makes the functions.
    """
    settings = context.settings
    require_servable(settings)
    functions = publish(context.lake, settings)
    serve = settings.serve_sql
    server = _start(context.session, serve)
    port = _listener(server).getPortNumber()
    tls = ";ssl=true" if _hive_setting(context.session, "hive.server2.use.SSL") == "true" else ""
    url = f"jdbc:hive2://{_in_url(serve.host)}:{port}/{tls}"
    values = {"url": url, **serve.model_dump(), "port": port}
    text = f"serving {context.lake.schema} at {url} (authentication {serve.authentication})"
    if serve.connect_port is not None:
        connect_port = _start_connect(context.session, serve, functions)
        connect_url = f"sc://{_in_url(serve.host)}:{connect_port}"
        values |= {"connect_url": connect_url, "connect_port": connect_port}
        text += f" and {connect_url}"
    return Report(text, values, serve=functools.partial(_serve, context.session, server))


def require_servable(settings: Settings) -> None:
    """Raise SettingsError where something else than section serve_sql would decide who may connect, or an address is
    another process's or machine's.
    """
    for name in settings.spark.conf:
        decided = _DECIDED.get(name.removeprefix("spark.").removeprefix("hadoop."))
        if decided:
            raise SettingsError(f"spark.conf.{name} is not what serve-sql goes by: {decided}")
    if variables := hive_addresses():
        raise SettingsError(
            f"Hive's server would listen where {' and '.join(variables)} says, not at serve_sql.host and "
            "serve_sql.port: unset it"
        )
    serve = settings.serve_sql
    _require_free(serve.host, serve.port, name="port")
    if serve.connect_port is None:
        return
    if not is_loopback(serve.host) and connect_token(settings.spark.conf) is None:
        raise SettingsError(
            f"whoever reaches serve_sql.host={serve.host} could run Python here by Spark Connect, which asks for a token "
            "alone. Leave serve_sql.connect_port out, listen on 127.0.0.1, or set SPARK_CONNECT_AUTHENTICATE_TOKEN"
        )
    _require_free(serve.host, serve.connect_port, name="connect_port")


def _require_free(host: str, port: int, *, name: str) -> None:
    """Raise SettingsError where this process cannot listen at an address, by a setting of this name."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            # As Java does: connections of an earlier server that are being closed are no obstacle.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        raise SettingsError(
            f"cannot listen at serve_sql.host={host}, serve_sql.{name}={port}: {error.strerror}. Give another port (0 "
            "takes any that is free), or stop what listens there"
        ) from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _start(spark: SparkSession, settings: ServeSqlSettings) -> Any:
    """Spark's Thrift server, started: a handle of Java's object."""
    if spark.conf.get(_SINGLE_SESSION, "false") != "true":
        raise SettingsError(
            "clients would get sessions without the lake's temporary functions: start the session that serve-sql is "
            f"given with {_SINGLE_SESSION}=true"
        )
    needed = _NEEDED.get(settings.authentication)
    if needed and not _hive_setting(spark, needed):
        raise SettingsError(
            f"serve_sql.authentication={settings.authentication} needs {needed}: give spark.conf.spark.{needed}"
        )
    for name, value in {
        "hive.server2.thrift.bind.host": settings.host,
        "hive.server2.thrift.port": str(settings.port),
        "hive.server2.authentication": settings.authentication,
        "hive.server2.transport.mode": "binary",
    }.items():
        spark.conf.set(name, value)
    jvm: Any = spark._jvm
    starter = jvm.org.apache.spark.sql.hive.thriftserver.HiveThriftServer2
    return starter.startWithContext(spark._jsparkSession.sqlContext())


def _start_connect(spark: SparkSession, settings: ServeSqlSettings, functions: FunctionSet) -> int:
    """Spark Connect's server, started in the application of a session, whose functions clients are told of: its port."""
    service = _connect_service(spark)
    if service.started():
        raise SettingsError(
            "this session serves Spark Connect already, at an address that serve_sql.host does not decide: leave "
            "SparkConnectPlugin out of spark.plugins"
        )
    from jobs.stages.sql.function_set import tell_sessions

    tell_sessions(spark, functions)
    context: Any = spark._jsc.sc()
    context.conf().set("spark.connect.grpc.binding.address", settings.host)
    context.conf().set("spark.connect.grpc.binding.port", str(settings.connect_port))
    service.start(context)
    port: int = service.localPort()
    return port


def _connect_service(spark: SparkSession) -> Any:
    """Scala's object of Spark Connect's server."""
    jvm: Any = spark._jvm
    service = jvm.org.apache.spark.sql.connect.service
    return getattr(getattr(service, "SparkConnectService$"), "MODULE$")


def _serve(spark: SparkSession, server: Any) -> None:
    """Wait for a signal, then stop the servers. LakeError where that of JDBC ends of itself."""
    try:
        while server.getServiceState().toString() == "STARTED":
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        log.info("stopping: clients are disconnected")
        server.stop()
        jvm: Any = spark._jvm
        connect, nothing = _connect_service(spark), jvm.scala.Option.empty()
        if connect.started():
            connect.stop(nothing, nothing)
        return
    raise LakeError("the server has stopped, as Spark's session has ended; its log says why")


def _hive_setting(spark: SparkSession, name: str) -> str | None:
    """One of Hive's settings as the server finds it: from spark.hive.…, spark.hadoop.… or hive-site.xml."""
    value: str | None = spark._jsparkSession.sessionState().newHadoopConf().get(name)
    return value


def _listener(server: Any) -> Any:
    """The part of the server that listens, which knows its port."""
    parts = server.getServices()
    return next(part for part in parts if part.getName() == "ThriftBinaryCLIService")


if __name__ == "__main__":
    command()
