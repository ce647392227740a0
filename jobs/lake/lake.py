"""The lake: the product's Delta tables under one schema, opened, read at pinned versions and appended to."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from jobs.lake.conflicts import again_on_conflict
from jobs.lake.sql import identifier, literal, name_parts, readable, table_sql
from jobs.lake.sql import is_path as is_path
from jobs.lake.tables import TABLES, Table
from jobs.settings.lake import LakeSettings
from udfs import storage
from udfs.errors import LakeError

log = logging.getLogger("gme_lake")

# "C:\\data" is a drive; `dbfs:/data` and `file:/data` are URIs as `s3://bucket` is.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_CAUSE = re.compile(r"^(?:Caused by)?: (.+)$", re.MULTILINE)
_PATTERN = re.compile(r"[\[\]{}*?\\]")
_COMMIT = re.compile(r"\d{20}\.(json|checkpoint)")
_COMMIT_FILE = re.compile(r"\d{20}\.json")
_CATALOG = "spark.sql.catalogImplementation"
_OWN = {table.name: table for table in TABLES}
_FIRST_COMMIT_SECONDS = 10.0  # a process that makes a table at this moment takes one or two


class Lake:
    """An open lake. A table is made, or made known to the session's catalog, when its name is first asked for.

    `schema` is lake.schema as SQL says it, with backticks where they are needed; `managed`: the catalog decides where
    tables lie. Raises LakeError for a name or folder that Spark cannot use.
    """

    def __init__(self, spark: SparkSession, settings: LakeSettings) -> None:
        self.spark = spark
        self.schema = readable(*_schema_parts(settings.schema_))
        self.root = absolute(settings.root)
        self.managed = settings.managed
        if found := _PATTERN.search(self.root):
            raise LakeError(
                f"lake.root={self.root}: Spark reads {found[0]} in the path of files as a pattern; give a folder without "
                "any of [ ] { } * ? and backslash"
            )
        self._opened: set[str] = set()
        self._opening = threading.RLock()  # a run beats in a thread of its own
        self._make_schema()

    def _make_schema(self) -> None:
        schema = readable(*name_parts(self.schema))
        try:
            self.spark.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        except AnalysisException as error:
            raise LakeError(
                f"lake.schema={schema} cannot be used: {cause(error)}. Give the name of a schema, or of catalog and "
                "schema, that this session's catalogs take"
            ) from error

    def name(self, table: str) -> str:
        """Qualified name in SQL and for Spark's functions, e.g. gme.vectors, or `my-shop`.vectors.

        A table of the lake is there afterwards. Raises LakeError as `open_table`.
        """
        if table in _OWN:
            self.open_table(_OWN[table])
        return self.quoted(table)

    def quoted(self, table: str) -> str:
        """As `name`, of a table or view that need not be there."""
        return f"{self.schema}.{readable(table)}"

    @property
    def outlives_session(self) -> bool:
        """Whether the catalog keeps the schema when the session ends, so that others see what is published in it."""
        in_other_catalog = len(name_parts(self.schema)) > 1
        return in_other_catalog or self.spark.conf.get(_CATALOG, "in-memory") != "in-memory"

    def lies_there(self, table: Table) -> bool:
        """Whether a table of the lake was ever made; with `lake.managed`, whether the catalog has it."""
        location = self._location(table)
        if location is None:
            return bool(self.spark.catalog.tableExists(self.quoted(table.name)))
        return bool(DeltaTable.isDeltaTable(self.spark, location))

    def folder(self, *parts: str) -> str:
        """A path under the lake's root; the caller creates what it needs."""
        return "/".join((self.root, *parts))

    @contextmanager
    def staging(self, name: str) -> Iterator[str]:
        """A folder for the intermediate files of a block, named after a run; removed with the block's end."""
        folder = self.folder("staging", name)
        try:
            yield folder
        finally:
            storage.remove_folder(folder)

    def relative(self, path: str) -> str:
        """How tables name a path: `./…` from the lake's root where it lies there, so that a lake can be moved and copied."""
        within = path.removeprefix(self.root)
        return f".{within}" if within != path and within.startswith("/") else path

    def resolve(self, path: str) -> str:
        """The path that a table names. What lies outside the lake, and what old lakes name absolutely, is as it stands."""
        return self.root + path[1:] if path.startswith("./") else path

    def resolve_column(self, column: str) -> Column:
        """A column of paths as tables name them, each as `resolve` gives it."""
        named = F.col(column)
        within = F.concat(F.lit(self.root), F.expr(f"substring({identifier(column)}, 2)"))
        return F.when(named.startswith("./"), within).otherwise(named)

    def holds(self, path: str) -> bool:
        """Whether a path lies under the lake's root, by where its links and `..` lead; nothing else may be deleted."""
        local, root = storage.local_path(path), storage.local_path(self.root)
        if (local is None) != (root is None):
            return False
        if local is not None and root is not None:
            inner, outer = local.resolve(), root.resolve()
            return inner != outer and inner.is_relative_to(outer)
        return path.startswith(f"{self.root}/") and ".." not in path.split("/")

    def read(self, table: str, *, version: int | None = None) -> DataFrame:
        """A lake table, at a pinned version if one is given."""
        return read_table(self.spark, self.name(table), version=version)

    def version(self, table: str) -> int:
        """Newest version of a lake table."""
        return table_version(self.spark, self.name(table))

    def table_id(self, table: str) -> str:
        """Delta's id of a lake table: a table that was made again has another, whatever its versions are."""
        row = delta_table(self.spark, self.name(table)).detail().select("id").first()
        if row is None:
            raise LakeError(f"{self.name(table)} has no details; is it a Delta table?")
        return str(row.id)

    def newest_commit(self, table: str) -> tuple[str, ...]:
        """What tells the newest commit of a lake table from all others; see `newest_commit`."""
        location = self._location(_OWN[table])
        return newest_commit(self.spark, location or self.name(table))

    def append(
        self,
        table: str,
        rows: Iterable[Mapping[str, Any]],
        *,
        txn: tuple[str, int] | None = None,
    ) -> None:
        """Append rows given as mappings of column to value; columns not named are null.

        With `txn`, an application id and a number that grows, Delta appends nothing where a commit of that id has the
        number already, and raises a conflict (`is_conflict`) where one is made at the same moment: who finds its rows
        in the table was the first.
        """
        writer = (
            self.frame_of(table, rows).coalesce(1).writeTo(self.name(table))
        )  # a third cheaper than saveAsTable
        if txn is not None:
            writer = writer.option("txnAppId", txn[0]).option("txnVersion", txn[1])
        writer.append()

    def frame_of(self, table: str, rows: Iterable[Mapping[str, Any]]) -> DataFrame:
        """Rows given as mappings of column to value with the columns of a lake table."""
        schema = self.row_schema(table)
        tuples = [tuple(row.get(f.name) for f in schema.fields) for row in rows]
        return self.spark.createDataFrame(tuples, schema)

    def row_schema(self, table: str) -> StructType:
        """Columns of a lake table without its identity column."""
        fields = [f"{identifier(c)} {sql_type(kind)}" for c, kind, _ in _OWN[table].columns]
        return cast(StructType, StructType.fromDDL(", ".join(fields)))

    def open_table(self, table: Table) -> None:
        """Create a table where it is missing, or make one that lies there known to the session; once for each lake.

        Raises LakeError where the schema has the table of another lake, as a copy must not read or write its original,
        and where other files lie in its folder.
        """
        with self._opening:
            if table.name in self._opened:
                return
            location = self._location(table)
            if self._is_known(table, location):
                self._add_what_is_missing(table)
            elif location and self.lies_there(table):
                self._register(table, location)
            else:
                self._create(table, location)
            self._opened.add(table.name)

    def _location(self, table: Table) -> str | None:
        return None if self.managed else self.folder("tables", table.name)

    def _register(self, table: Table, location: str) -> None:
        name = self.quoted(table.name)
        self.spark.sql(
            f"CREATE TABLE IF NOT EXISTS {name} USING delta LOCATION {literal(location)}"
        )
        self._add_what_is_missing(table)

    def _create(self, table: Table, location: str | None) -> None:
        """Create a table, also in the folder that a process left which was killed while it made it."""
        statement = create_statement(table, name=self.quoted(table.name), location=location)
        try:
            self.spark.sql(statement)
        except AnalysisException as error:
            if location is None or "CREATE_TABLE_WITH_NON_EMPTY_LOCATION" not in str(error):
                raise
            if self._is_made_meanwhile(table):
                self._register(table, location)
                return
            log_folder = storage.join(location, "_delta_log")
            begun = storage.names(log_folder)
            if storage.names(location) != ["_delta_log"] or any(map(_COMMIT.match, begun)):
                raise LakeError(
                    f"{location} holds files but no Delta table ({', '.join(storage.names(location))[:200]}): the lake "
                    f"cannot make its table {table.name} there; give another lake.root, or move them away"
                ) from error
            log.warning("%s was begun by a process that was killed; it is made again", location)
            storage.remove_folder(log_folder)
            self.spark.sql(statement)

    def _is_made_meanwhile(self, table: Table) -> bool:
        """Whether the process that has begun a table finishes it: the first commit follows its file within moments."""
        give_up = time.monotonic() + _FIRST_COMMIT_SECONDS
        while time.monotonic() < give_up:
            if self.lies_there(table):
                return True
            time.sleep(0.5)
        return False

    @again_on_conflict
    def _add_what_is_missing(self, table: Table) -> None:
        """Give a table that an earlier version made the columns that it lacks, null in its rows, and comments.

        Columns that have a comment keep theirs. The table's own comes first: a column without one tells that it lacks
        too, so that nothing is asked where nothing is missing.
        """
        name = self.quoted(table.name)
        have = {f.name: f.metadata.get("comment") for f in self.spark.table(name).schema.fields}
        missing = [column for column in table.columns if column[0] not in have]
        if missing:
            listed = ", ".join(
                f"{identifier(column)} {sql_type(kind.lstrip('!'))} COMMENT {literal(comment)}"
                for column, kind, comment in missing
            )
            self.spark.sql(f"ALTER TABLE {name} ADD COLUMNS ({listed})")
        silent = [(c, comment) for c, comment in table.comments.items() if have.get(c, "-") is None]
        if silent:
            self.spark.sql(f"COMMENT ON TABLE {name} IS {literal(table.comment)}")
            told = ", ".join(f"{identifier(c)} COMMENT {literal(comment)}" for c, comment in silent)
            self.spark.sql(f"ALTER TABLE {name} ALTER COLUMN {told}")

    def _is_known(self, table: Table, location: str | None) -> bool:
        """Whether the catalog knows a table as the one of this lake. One whose folder is gone is forgotten: lakes are moved.

        Dropping it takes the name alone: tables at a location of their own keep their files.
        """
        name = self.quoted(table.name)
        try:
            if not self.spark.catalog.tableExists(name):
                return False
        except AnalysisException as error:
            if location is None or "DELTA_PATH_DOES_NOT_EXIST" not in str(error):
                raise
            self.spark.sql(f"DROP TABLE {name}")
            return False
        if location is None:
            return True
        described = self.spark.sql(f"DESCRIBE TABLE EXTENDED {name}").where("col_name = 'Location'")
        found = described.select("data_type").first()
        if found is None or _same_place(found[0], location):
            return True
        if storage.exists(storage.join(found[0], "_delta_log")):
            raise LakeError(
                f"{name} is the table in {found[0]}, not the one of this lake in {location}: another lake is known "
                "under this schema. Give this one a schema of its own (lake.schema), or drop the schema's tables from "
                "the catalog (those in the folder of a lake keep their files)"
            )
        self.spark.sql(f"DROP TABLE {name}")
        return False


def _same_place(one: str, other: str) -> bool:
    """Whether two paths or URIs name one folder; local ones by where their links lead."""
    paths = storage.local_path(one), storage.local_path(other)
    if paths[0] is not None and paths[1] is not None:
        return paths[0].resolve() == paths[1].resolve()
    return one.rstrip("/") == other.rstrip("/")


def create_statement(table: Table, *, name: str, location: str | None) -> str:
    """CREATE TABLE of a lake table. SQL, as Delta's builder takes no name with a catalog."""
    columns = [
        f"{identifier(column)} {sql_type(kind)} COMMENT {literal(comment)}"
        for column, kind, comment in table.columns
    ]
    if table.identity:
        column, comment = table.identity
        identity = f"{identifier(column)} BIGINT GENERATED ALWAYS AS IDENTITY"
        columns.insert(0, f"{identity} COMMENT {literal(comment)}")
    listed = ", ".join(columns)
    statement = f"CREATE TABLE IF NOT EXISTS {name} ({listed}) USING delta"
    if table.partitioned_by:
        by = ", ".join(identifier(column) for column in table.partitioned_by)
        statement = f"{statement} PARTITIONED BY ({by})"
    if location:
        statement = f"{statement} LOCATION {literal(location)}"
    if table.properties:
        items = table.properties.items()
        properties = ", ".join(f"{literal(key)} = {literal(value)}" for key, value in items)
        statement = f"{statement} TBLPROPERTIES ({properties})"
    return f"{statement} COMMENT {literal(table.comment)}"


def sql_type(kind: str) -> str:
    """The type of a lake table's column (tables.py) as CREATE TABLE says it."""
    return f"{kind[1:]} NOT NULL" if kind.startswith("!") else kind


def _schema_parts(schema: str) -> list[str]:
    try:
        return name_parts(schema)
    except LakeError as error:
        raise LakeError(f"lake.schema: {error}") from None


def read_table(spark: SparkSession, table: str, *, version: int | None = None) -> DataFrame:
    """A Delta table by name or path, at a version if one is given."""
    reader = spark.read
    if version is not None:
        reader = reader.option("versionAsOf", version)
    return reader.format("delta").load(table) if is_path(table) else reader.table(table_sql(table))


def delta_table(spark: SparkSession, table: str) -> DeltaTable:
    """Handle of a Delta table by name or path. Raises LakeError, which says what is there, where there is none."""
    if is_path(table):
        if not DeltaTable.isDeltaTable(spark, table):
            raise LakeError(_at_path(table))
        return DeltaTable.forPath(spark, table)
    try:
        return DeltaTable.forName(spark, table_sql(table))
    except Exception as error:  # AnalysisException, or the JVM's own where a catalog is missing
        raise LakeError(_at_name(spark, table, cause(error))) from error


def _at_path(path: str) -> str:
    """What lies where a Delta table was expected."""
    try:
        found, exists = storage.names(path), storage.exists(path)
    except Exception as error:  # file libraries raise anything for odd places
        return f"{path} is not a Delta table: no _delta_log found there ({cause(error)})"
    if path.endswith(".parquet") or any(n.endswith(".parquet") or "=" in n for n in found):
        return (
            f"{path} is not a Delta table; it looks like Parquet files: turn them into a Delta table where they are "
            f"(CONVERT TO DELTA {identifier('parquet', path)}), or write their rows into one"
        )
    if exists:
        return f"{path} is not a Delta table: no _delta_log found there"
    return f"{path} does not exist; give the name or path of a Delta table"


def _at_name(spark: SparkSession, table: str, reason: str) -> str:
    name = table_sql(table)
    try:
        kind = spark.catalog.getTable(name).tableType
    except Exception as error:  # as above
        return (
            f"table {table} does not exist in this catalog; give its name or path ({cause(error)})"
        )
    if kind in {"VIEW", "TEMPORARY"}:
        return (
            f"{table} is a view, which has no versions and no changes to follow: give the Delta table under it, or write "
            "its rows into one"
        )
    rows = spark.sql(f"DESCRIBE TABLE EXTENDED {name}").where("col_name = 'Provider'").collect()
    if rows and rows[0].data_type.lower() != "delta":
        return (
            f"{table} is a table of format {rows[0].data_type}, not a Delta table: convert it (CONVERT TO DELTA {name}), "
            "or write its rows into one"
        )
    return f"{table} cannot be read as a Delta table: {reason}"


def cause(error: BaseException) -> str:
    """What went wrong, in one line: the innermost cause that the JVM names, else the first line with words."""
    text = str(error)
    causes: list[str] = _CAUSE.findall(text)
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line), type(error).__name__)
    return (causes[-1] if causes else first).rstrip(" ;.")


def table_version(spark: SparkSession, table: str) -> int:
    """Newest version of a Delta table by name or path. Raises LakeError where there is none."""
    row = delta_table(spark, table).history(1).select("version").first()
    if row is None:
        raise LakeError(f"table {table} has no commits")
    return int(row[0])


def newest_commit(spark: SparkSession, table: str) -> tuple[str, ...]:
    """What tells the newest commit of a Delta table from all others, also after the table was made again.

    Of a path, no more than a look into the log's folder, where `table_version` takes Spark half a second; by name, what
    the catalog says. Of a table that is not there, nothing.
    """
    if not is_path(table):
        commit = delta_table(spark, table).history(1).select("version", "timestamp").first()
        return () if commit is None else (str(commit.version), str(commit.timestamp))
    folder = storage.join(table, "_delta_log")
    commits = [file for file in storage.names(folder) if _COMMIT_FILE.fullmatch(file)]
    if not commits:
        return ()
    newest = max(commits)
    nbytes, changed = storage.stat(storage.join(folder, newest))
    return newest, str(nbytes), changed


def absolute(path: str) -> str:
    """A local path made absolute, so that driver, JVM and executors mean the same folder; URIs unchanged."""
    if _URI.match(path):
        return path.rstrip("/")
    return str(Path(path).expanduser().resolve())


def table_given(table: str) -> str:
    """A table as a setting names it: a path made absolute, or a name, both written as they are remembered."""
    if is_path(table):
        return absolute(table)
    parts = name_parts(table)
    by_path = len(parts) == 2 and parts[0].lower() == "delta" and is_path(parts[1])
    return absolute(parts[1]) if by_path else readable(*parts)


def absolute_uris(uri: Column, *, base: str | None) -> Column:
    """A column of paths and URIs with those that are relative put under the folder `base`; unchanged without one."""
    if not base:
        return uri
    folder = absolute(base).rstrip("/") + "/"
    is_absolute = uri.startswith("/") | uri.contains("://")
    is_absolute |= F.lower(F.substring(uri, 1, 5)) == "data:"
    return F.when(is_absolute, uri).otherwise(F.concat(F.lit(folder), uri))


def now() -> datetime:
    """The current time with its time zone, UTC: Spark takes it as the same moment in a session of any time zone."""
    return datetime.now(UTC)
