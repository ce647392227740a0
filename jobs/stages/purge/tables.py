"""Ids and vectors out of Delta tables for good: rows, files of older versions, change data, and what the log says of
files.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from jobs.lake.conflicts import again_on_conflict
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.lake.sql import identifier, literal, literals
from jobs.stages.purge.places import HOLD_IDS, ROWS_OF_IDS
from udfs import storage
from udfs.errors import LakeError
from udfs.purge.scan import scan_file
from udfs.purge.traces import Traces

log = logging.getLogger("gme_lake")

PURGED = "purged"  # stands where an id stood in a text or list
_RETENTION_CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"
_LOG_FILE = re.compile(r"(\d{20})\.")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint")
# A checkpoint with the next commit, which names no file that is gone.
_CHECKPOINT_NOW = {
    "delta.checkpointInterval": "1",
    "delta.deletedFileRetentionDuration": "interval 0 seconds",
}


def delete_vectors(run: Run, ids: Collection[str]) -> int:
    """Delete the rows of `vectors` that have one of the ids, of all models; returns how many there were.

    By a join: the predicate of a DELETE would stand in the log, with the ids in it.
    """
    rows = run.lake.spark.createDataFrame([(name,) for name in sorted(ids)], "id string")
    made = run.merge("vectors", rows, on="t.id = s.id", then="WHEN MATCHED THEN DELETE")
    return int(made.num_deleted_rows)


@again_on_conflict
def redact(lake: Lake, table: str, traces: Traces) -> None:
    """Write a table of the lake again with PURGED where one of the ids stands, as a value, in a list, or named in a text;
    without the rows that are an id's own.
    """
    frame = lake.read(table)
    if table in ROWS_OF_IDS:
        frame = frame.where(~F.col(ROWS_OF_IDS[table]).isin(sorted(traces.ids)))
    kinds = dict(frame.dtypes)
    changed = {}
    for name in HOLD_IDS[table]:
        if kinds[name] == "string":
            changed[name] = _without(F.col(name), traces)
        else:
            ids, purged = literals(traces.ids), literal(PURGED)
            changed[name] = F.expr(
                f"transform({identifier(name)}, x -> IF(x IN ({ids}), {purged}, x))"
            )
    frame.withColumns(changed).writeTo(lake.name(table)).overwrite(F.lit(True))


def redact_errors(run: Run, traces: Traces) -> None:
    """The same for the reasons in `vectors` why rows of other ids have no vector: they may name a picture's path."""
    rows = run.lake.read("vectors").where("error IS NOT NULL")
    rows = rows.withColumn("without", _without(F.col("error"), traces))
    rows = rows.where("error <> without").select("vector_id", "without")
    then = "WHEN MATCHED THEN UPDATE SET error = s.without"
    run.merge("vectors", rows, on="t.vector_id = s.vector_id", then=then)


def _without(text: Column, traces: Traces) -> Column:
    made = text
    for before, names, after in traces.patterns:
        pattern = f"({before})(?:{names})({after})"
        for _ in range(2):  # two ids may share what stands between them
            made = F.regexp_replace(made, pattern, f"$1{PURGED}$2")
    return F.when(text.isin(sorted(traces.ids)), F.lit(PURGED)).otherwise(made)


def rewrite_files(lake: Lake, table: str) -> None:
    """Write files again in which rows are marked deleted, and a checkpoint, before which the log is needed no more."""
    with _no_retention(lake.spark):
        lake.spark.sql(f"REORG TABLE {lake.name(table)} APPLY (PURGE)")
        _write_checkpoint(lake, table)


def live_files(lake: Lake, table: str) -> set[str]:
    """Paths of the files that the newest version of a table is read from."""
    found = (storage.local_path(uri) or uri for uri in lake.read(table).inputFiles())
    return {str(path) for path in found}


def remove_old_files(lake: Lake, table: str, traces: Traces) -> None:
    """Let nothing be on disk of a table but its newest version: no file of an older one or of change data, and no commit
    that names an id among its statistics or predicates.

    No other run may be reading or writing the lake. Of tables that a catalog keeps the log is left to its retention.
    """
    with _no_retention(lake.spark):
        lake.spark.sql(f"VACUUM {lake.name(table)} RETAIN 0 HOURS")
        if lake.managed:
            return
        folder = lake.folder("tables", table, "_delta_log")
        naming = _versions_naming(folder, traces)
        if naming and max(naming) >= _newest_checkpoint(folder):
            _write_checkpoint(lake, table)
        if naming:
            _cut_log(folder)
            log.info("the log of table %s begins with its last checkpoint now", table)


@contextmanager
def _no_retention(spark: SparkSession) -> Iterator[None]:
    """Delta's check that nobody vacuums what others may read is off for a block, in this session."""
    before = spark.conf.get(_RETENTION_CHECK, None)
    spark.conf.set(_RETENTION_CHECK, "false")
    try:
        yield
    finally:
        if before is None:
            spark.conf.unset(_RETENTION_CHECK)
        else:
            spark.conf.set(_RETENTION_CHECK, before)


def _versions_naming(folder: str, traces: Traces) -> list[int]:
    """Versions whose commit or checkpoint names an id."""
    matches = {path: _LOG_FILE.match(path.rpartition("/")[2]) for path in storage.files(folder)}
    return [int(match[1]) for path, match in matches.items() if match and scan_file(path, traces)]


def _newest_checkpoint(folder: str) -> int:
    found = [_CHECKPOINT.match(file) for file in storage.names(folder)]
    return max((int(match[1]) for match in found if match), default=-1)


def _write_checkpoint(lake: Lake, table: str) -> None:
    """Let Delta write a checkpoint that names no file which is gone, by a commit of properties; they are then as before.

    Raises LakeError where none came of it.
    """
    spark, name = lake.spark, lake.name(table)
    rows = spark.sql(f"SHOW TBLPROPERTIES {name}").collect()
    before = {row.key: row.value for row in rows if row.key in _CHECKPOINT_NOW}
    version = lake.version(table) + 1
    _set(lake, table, _CHECKPOINT_NOW)
    keys = ", ".join(literal(key) for key in _CHECKPOINT_NOW)
    spark.sql(f"ALTER TABLE {name} UNSET TBLPROPERTIES IF EXISTS ({keys})")
    if before:
        _set(lake, table, before)
    folder = lake.folder("tables", table, "_delta_log")
    if not lake.managed and _newest_checkpoint(folder) < version:
        raise LakeError(
            f"{folder} has no checkpoint of version {version}, which that commit asked for; what was purged stays "
            "in its log. Run it again"
        )


def _cut_log(folder: str) -> None:
    """Remove the commits before the newest checkpoint, as Delta does when a log's retention has passed."""
    newest = _newest_checkpoint(folder)
    for file in storage.names(folder):
        match = _LOG_FILE.match(file)
        if match and int(match[1]) < newest:
            storage.remove_file(storage.join(folder, file))
            storage.remove_file(storage.join(folder, f".{file}.crc"))


def _set(lake: Lake, table: str, properties: dict[str, str]) -> None:
    listed = ", ".join(f"{literal(key)} = {literal(value)}" for key, value in properties.items())
    lake.spark.sql(f"ALTER TABLE {lake.name(table)} SET TBLPROPERTIES ({listed})")
