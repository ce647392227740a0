"""What earlier runs prove: up to which version of the source a model's vectors are known to be right.

`vectors` compared with the source is the truth. What is read here only saves looking at rows that cannot differ, and is
believed only where nothing else can have happened to the source or to `vectors` since.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from jobs.lake.lake import Lake, cause, delta_table
from jobs.settings.embed import EmbedSettings
from jobs.stages.embed.source import Source
from udfs.errors import LakeError

log = logging.getLogger("gme_lake")

# Commits of `vectors` that leave every model's rows as its own runs wrote them: those of the runs, and upkeep.
_KEEP_VECTORS = {
    "MERGE",
    "OPTIMIZE",
    "VACUUM START",
    "VACUUM END",
    "CHANGE COLUMN",  # comments: no type of ours is ever changed
    "CHANGE COLUMNS",
    "SET TBLPROPERTIES",
    "UNSET TBLPROPERTIES",
    "ADD CONSTRAINT",
    "DROP CONSTRAINT",
    "UPGRADE PROTOCOL",
}
_KEEP_ROWS = {
    "OPTIMIZE",
    "VACUUM START",
    "VACUUM END",
    "SET TBLPROPERTIES",
    "UNSET TBLPROPERTIES",
    "ADD COLUMNS",
}
# After these a column may have another one's name, and values that no change tells of; after RESTORE again where there
# was one of them before.
_OTHER_COLUMNS = {"RENAME COLUMN", "DROP COLUMNS", "REPLACE COLUMNS"}
# Those that may change how a table and its columns are described and held, and no row.
_KEEP_DATA = {"CHANGE COLUMN", "CHANGE COLUMNS", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES"}


@dataclass(frozen=True)
class TableCommit:
    """One commit of a Delta table. `time` names it: another history's commit of the same version has another."""

    version: int
    time: str
    operation: str
    parameters: Mapping[str, str]

    @property
    def only_adds(self) -> bool:
        """Whether it added rows, or moved them between files, and nothing else."""
        if self.operation in {"WRITE", "STREAMING UPDATE"}:
            return self.parameters.get("mode", self.parameters.get("outputMode")) == "Append"
        return self.operation in _KEEP_ROWS

    def removes(self, model_id: str) -> bool:
        """Of `vectors`: whether it took a model's rows away whatever the source has; see refresh/retention.py."""
        predicate, inserts = (
            self.parameters.get(name, "") for name in ("predicate", "notMatchedPredicates")
        )
        by_model = model_id in predicate and "vector_id" not in predicate
        return self.operation == "MERGE" and by_model and "insert" not in inserts


@dataclass(frozen=True)
class TableState:
    """A Delta table's identity and the commits that its log still holds, by version."""

    table_id: str
    commits: Mapping[int, TableCommit]

    @classmethod
    def read(cls, spark: SparkSession, table: str) -> TableState:
        """The present state of a table by name or path. Raises LakeError where there is none."""
        handle = delta_table(spark, table)
        detail = handle.detail().select("id").first()
        rows = handle.history().select("version", "timestamp", "operation", "operationParameters")
        commits = [TableCommit(int(r[0]), str(r[1]), r[2], r[3] or {}) for r in rows.collect()]
        if detail is None or not commits:
            raise LakeError(f"table {table} has no commits")
        return cls(detail.id, {commit.version: commit for commit in commits})

    @property
    def version(self) -> int:
        """The newest version."""
        return max(self.commits)

    def time(self, version: int) -> str:
        """Names the commit of a version that the log holds."""
        return self.commits[version].time

    def has(self, version: int | None, time: str | None) -> bool:
        """Whether this history has the commit."""
        commit = self.commits.get(version) if version is not None else None
        return commit is not None and commit.time == time

    def since(self, version: int) -> list[TableCommit] | None:
        """The commits after a version, or None where the log no longer holds them all."""
        wanted = range(version + 1, self.version + 1)
        if any(v not in self.commits for v in wanted):
            return None
        return [self.commits[v] for v in wanted]

    def only_added(self, *, since: int) -> bool:
        """Whether every commit after a version only added rows or moved them between files."""
        commits = self.since(since)
        return commits is not None and all(commit.only_adds for commit in commits)

    def data_kept(self, *, since: int) -> bool:
        """Whether every commit after a version only described the table, or its columns: whether these are the same is
        not told.
        """
        commits = self.since(since)
        return commits is not None and all(c.operation in _KEEP_DATA for c in commits)

    def columns_kept(self, *, since: int) -> bool:
        """Whether every column after a version has the name that it had, as far as operations tell."""
        commits = self.since(since)
        moved = any(commit.operation in _OTHER_COLUMNS for commit in self.commits.values())
        others = _OTHER_COLUMNS | ({"RESTORE"} if moved else set())
        return commits is not None and all(c.operation not in others for c in commits)

    def vectors_kept(self, *, since: int | None, model_id: str) -> bool:
        """Of `vectors`: whether nothing but runs of jobs, and upkeep, has changed a model's rows after a version."""
        commits = None if since is None else self.since(since)
        return commits is not None and all(
            c.operation in _KEEP_VECTORS and not c.removes(model_id) for c in commits
        )


@dataclass(frozen=True)
class Proof:
    """`version` of the source at which the vectors were right; None: nothing is known, for the reason `why`.

    `repeated` rows of that version had the id of another row, `outside` ids were outside embed.where.
    """

    version: int | None
    why: str = ""
    repeated: int = 0
    outside: int = 0


def source_runs(lake: Lake, *, model_id: str) -> DataFrame:
    """The events of embed_table's runs that read a source for the model."""
    runs = lake.read("run_events").where("job = 'embed_table' AND source_table IS NOT NULL")
    runs = runs.withColumn("source_table", lake.resolve_column("source_table"))
    return runs.where(F.col("model_id") == model_id)


def source_key(
    source: Source, *, state: TableState, vectors: TableState, embed: EmbedSettings
) -> str:
    """Digest of what must be equal for one run to go on from another.

    Source table and mapping, table `vectors`, and where vectors are written back to.
    """
    back = [embed.write_back, embed.vector_column, embed.model_column]
    parts = "|".join([state.table_id, source.columns_key, vectors.table_id, *back])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def read_proof(
    lake: Lake,
    *,
    model_id: str,
    key: str,
    where: str | None,
    state: TableState,
    vectors: TableState,
) -> Proof:
    """What the model's runs in this lake prove of the rows of the source that `where` (embed.where) is true of.

    The last run that has looked at all of them counts, whatever it read: only if it read this table (by its Delta table
    id) with this mapping at a version of this history, no run that began later did otherwise, and nobody but runs has
    changed `vectors`. Runs over a part that began later have brought that part nearer to the source, and prove nothing.
    """
    columns = ["run_id", "started_at", "ended_at", "beat_at", "status", "counts"]
    columns += ["source_key", "source_version", "source_commit", "vectors_version", "settings"]
    events = source_runs(lake, model_id=model_id).select(*columns).collect()
    last_of = {
        e.run_id: e for e in sorted(events, key=lambda e: e.ended_at or e.beat_at or e.started_at)
    }
    rows = sorted(last_of.values(), key=lambda row: row.started_at)
    finished = [number for number, row in enumerate(rows) if _has_looked(row, where)]
    if not finished:
        return Proof(None, "no run has finished yet that looked at all of them")
    last, later = rows[finished[-1]], rows[finished[-1] :]
    for row in later:
        which = f"run {row.run_id}"
        if row.source_key != key:
            return Proof(None, f"{which} read another table, or by other settings of source")
        if not state.has(row.source_version, row.source_commit):
            return Proof(None, f"{which} read a version that this history does not have")
    if not vectors.vectors_kept(since=last.vectors_version, model_id=model_id):
        return Proof(None, "vectors was changed by something else than a run")
    if not state.columns_kept(since=last.source_version):
        return Proof(None, "columns were renamed or dropped, of which a change feed does not tell")
    counts = last.counts or {}
    repeated, outside = counts.get("duplicates", 0), counts.get("outside", 0)
    return Proof(int(last.source_version), repeated=repeated, outside=outside)


def _has_looked(row: Row, where: str | None) -> bool:
    """Whether a run has finished and left out no row, or none that `where` is true of."""
    counts = row.counts or {}
    if row.status != "succeeded" or counts.get("left"):
        return False
    if not counts.get("outside"):
        return True
    asked = json.loads(row.settings)["embed"]
    return where is not None and asked["where"] == where and not asked["retry"]


@dataclass(frozen=True)
class Standing:
    """Where a model stands with a source: digest of what is compared, the state of `vectors`, what is proved."""

    key: str
    vectors: TableState
    proof: Proof


def read_standing(
    lake: Lake, source: Source, embed: EmbedSettings, *, model_id: str, state: TableState
) -> Standing:
    """What earlier runs prove of the model's vectors of a source in this state, as it is mapped now."""
    vectors = TableState.read(lake.spark, lake.name("vectors"))
    key = source_key(source, state=state, vectors=vectors, embed=embed)
    where = source.selection.where
    proof = read_proof(lake, model_id=model_id, key=key, where=where, state=state, vectors=vectors)
    if proof.version is not None and _is_only_described(lake, source, state, since=proof.version):
        proof = replace(proof, version=state.version)
    return Standing(key, vectors, proof)


def _is_only_described(lake: Lake, source: Source, state: TableState, *, since: int) -> bool:
    """Whether comments and properties are all that has changed in the source after a version."""
    if not state.data_kept(since=since):
        return False
    try:
        before, after = (
            source.read(lake.spark, version=version).schema for version in (since, state.version)
        )
    except AnalysisException as error:  # the log's older files are gone, and its history is not
        log.info("version %d of %s cannot be read: %s", since, source.table, cause(error))
        return False
    return without_comments(before) == without_comments(after)


def without_comments(schema: StructType) -> object:
    """A schema as JSON, without the comments of its columns and of the fields in them."""

    def bare(value: object) -> object:
        if isinstance(value, list):
            return [bare(one) for one in value]
        if isinstance(value, dict):
            return {key: bare(one) for key, one in value.items() if key != "comment"}
        return value

    return bare(schema.jsonValue())


def require_own_vectors(lake: Lake, source: Source, *, model_id: str, replace: bool) -> bool:
    """Whether the source takes another table's place, which `replace` (embed.replace_source) allows.

    Raises LakeError where the model's vectors in this lake are another table's and the setting does not say that this is
    wanted, as ids that a source lacks lose their vectors.
    """
    runs = source_runs(lake, model_id=model_id).select("source_table", "started_at").collect()
    newest = max(runs, key=lambda run: run.started_at, default=None)
    if newest is None or newest.source_table == source.table:
        return False
    vectors = lake.read("vectors").where(F.col("model_id") == model_id)
    if not vectors.head(1):
        return False
    if replace:
        return True
    raise LakeError(
        f"{lake.name('vectors')} holds vectors of {newest.source_table} made by model {model_id}; embedding {source.table} "
        "into it would remove them. Give it a lake of its own (lake.root, lake.schema), or set "
        "embed.replace_source=true where it takes the other's place"
    )
