"""The Spark session: taken from spark-submit or the platform, or started locally with Delta."""

from __future__ import annotations

import re
import sys

from pyspark.sql import SparkSession

from jobs.driver.class_archive import archive_options
from jobs.driver.delta_jars import delta_jars
from jobs.settings.conf import conf_file
from jobs.settings.load import prepare_environment, session_is_given
from jobs.settings.settings import Settings

# Needed for right results wherever the session comes from.
RUNTIME_CONF = {
    # Spark 4.2.0 hangs on a plain Python UDF over columnar input.
    "spark.sql.execution.arrow.pythonUDF.columnarInput.enabled": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Rows with pictures: bound an Arrow batch by bytes, not by 10,000 rows.
    "spark.sql.execution.arrow.maxBytesPerBatch": "8m",
    # Delta's parser drops the values of parameters (delta-io/delta#7640), which Spark otherwise gives to parsers.
    "spark.sql.legacy.parameterSubstitution.constantsOnly": "true",
}

LOCAL_CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    # Clients of serve-sql share the session that has the lake's functions; can be said before it starts only.
    "spark.sql.hive.thriftServer.singleSession": "true",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # 50-task jobs for Delta snapshots and 200-task shuffles cost seconds on a laptop.
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.shuffle.partitions": "4",
    # A run compiles some 300 pieces of code, many again for its next statement where 100 are kept.
    "spark.sql.codegen.cache.maxEntries": "1000",
    # VACUUM lists files in as many tasks, 10,000 where nobody says so: 47 s instead of 3 for a table of one file.
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "32",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}

# Of a master in one process: an executor that is silent for two minutes, as while a laptop sleeps, is taken for lost, and
# jobs wait for ever for its tasks. There is none that could be lost without its driver.
ONE_PROCESS_CONF = {"spark.storage.blockManagerHeartbeatTimeoutMs": "365d"}

# For commands that read and write a few small rows: compiling their queries costs more than running them.
QUICK_CONF = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
# Without its second compiler Java keeps 48 MiB of compiled code, too little for Spark: what is thrown out is compiled
# again and again.
QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"

_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
_ONE_PROCESS = re.compile(r"local(\[|$)")  # not local-cluster[…]
_COLLECTOR = re.compile(r"-XX:\+Use\w+GC\b")


def open_session(settings: Settings, *, quick: bool = False) -> SparkSession:
    """The session a job works in. `quick`: a local one for a command that has little to do.

    A session given by spark-submit, Databricks or a notebook keeps its own settings, its time zone too: nothing here
    depends on it. Only what Python functions over Arrow need is set. Otherwise a local one is started, with Delta's jars.
    """
    spark = SparkSession.getActiveSession()
    if spark is None and session_is_given():
        spark = SparkSession.builder.getOrCreate()
    if spark is None:
        spark = _start_local(settings, quick=quick)
    for name, value in RUNTIME_CONF.items():
        spark.conf.set(name, value)
    return spark


def local_conf(settings: Settings, *, quick: bool) -> dict[str, str]:
    """What a session that is started here is told; `spark.conf` has the last word.

    Said before it starts it holds for every session, those of Spark Connect's clients too.
    """
    conf = {**LOCAL_CONF, **RUNTIME_CONF, **(QUICK_CONF if quick else {})}
    if _ONE_PROCESS.match(settings.spark.master):
        conf |= ONE_PROCESS_CONF
    return conf | settings.spark.conf


def _start_local(settings: Settings, *, quick: bool) -> SparkSession:
    # Executors import this project and its packages from the interpreter that runs the driver.
    prepare_environment({"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable})
    conf = local_conf(settings, quick=quick)
    if jars := delta_jars(settings.spark.conf):
        conf["spark.jars"] = ",".join([*jars, *filter(None, [conf.get("spark.jars")])])
    builder = (
        SparkSession.builder.appName("gme-lake")
        .master(settings.spark.master)
        .config("spark.driver.memory", settings.spark.driver_memory)
    )
    with conf_file("log4j2.properties") as logging_conf:
        logging_option = f"-Dlog4j2.configurationFile={logging_conf.as_uri()}"
        more = [logging_option, *archive_options(), *([QUICK_JAVA] if quick else [])]
        conf[_JAVA_OPTIONS] = _java_options(conf.get(_JAVA_OPTIONS, ""), *more)
        for name, value in conf.items():
            builder = builder.config(name, value)
        spark: SparkSession = builder.getOrCreate()
    return spark


def _java_options(given: str, *more: str) -> str:
    """Options of the local JVM. A batch wants throughput: G1's short pauses cost up to a seventh more CPU."""
    collector = [] if _COLLECTOR.search(given) else ["-XX:+UseParallelGC"]
    return " ".join([*more, *collector, given]).strip()
