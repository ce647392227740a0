"""verify_index: is every file of an index as it was committed, and every vector row in exactly one place?"""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors, is_broken_off
from jobs.lake.index_marks import require_not_removing
from jobs.lake.indexes import index_folder, require_index, require_of_vectors
from jobs.lake.lake import Lake
from jobs.lake.registry import Registry
from jobs.lake.releases import current_release, newest_index
from jobs.lake.runs import Run
from jobs.stages.index.commit import file_rows, index_and_base
from jobs.stages.index.vectors import indexed_vectors
from udfs.index.manifest import Manifest
from udfs.verify.findings import COUNTED, Finding, merge_findings
from udfs.verify.manifest import File, compare_rows, find_manifest
from udfs.verify.rows import (
    ARE_FRESH,
    ARE_GONE,
    ARE_LIVING,
    GONE_SINCE,
    IN_ADDED,
    IN_BASE,
    LIVING,
    LIVING_NOW,
    account_batches,
    account_spec,
    parts_to_read,
    place_rows,
)
from udfs.verify.shards import SAMPLED, VerifySpec, verify_batches

log = logging.getLogger("gme_lake")

SAMPLE = 200
FIGURES = (IN_BASE, IN_ADDED, ARE_GONE, ARE_LIVING, ARE_FRESH, GONE_SINCE, SAMPLED)
_ROWS_PER_TASK = 2_000_000  # that are compared, at some 150 bytes each
_BLOCK_BITS, _BLOCKS = (
    10,
    16,
)  # vector_ids near each other stand in few row groups: so many blocks are sampled
# Of a version whose log or files are gone: Delta's conditions, Spark's, and those of file systems.
_VACUUMED = (
    "DELTA_VERSION_NOT_FOUND",
    "VersionNotFoundException",
    "DELTA_UNSUPPORTED_TIME_TRAVEL",
    "DELTA_FILE_NOT_FOUND",
    "DELTA_LOG_FILE_NOT_FOUND",
    "DELTA_TRUNCATED_TRANSACTION_LOG",
    "DELTA_CANNOT_RECONSTRUCT",
    "FILE_NOT_EXIST",
    "FileNotFoundException",
)


@dataclass(frozen=True)
class Verification:
    """What is wrong with an index, and `rows` by place. `version` of `vectors` it was compared with; `own_version`: the one
    it was built from, else the newest, as that can no longer be read.
    """

    index_id: str
    root: str
    version: int
    own_version: bool
    rows: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def __str__(self) -> str:
        if self.ok:
            return f"index {self.index_id} is whole: {self.describe()}"
        return "\n  ".join(
            [
                f"index {self.index_id}: {len(self.findings)} finding(s), {self.describe()}",
                *map(str, self.findings),
            ]
        )

    def describe(self) -> str:
        """Rows by place, and the version they were compared with, in words."""
        if not self.rows:
            return "of its files nothing is known, as the manifest says what they must be"
        which = (
            ""
            if self.own_version
            else ", the newest: the one it was built from can no longer be read"
        )
        rows = ", ".join(f"{self.rows.get(name, 0):,} {name}" for name in FIGURES)
        return f"{rows}; version {self.version} of vectors{which}"

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {**vars(self), "ok": self.ok}


def index_to_verify(lake: Lake, registry: Registry) -> str:
    """The index of the current release, else the newest of the registered model. Raises LakeError where there is none."""
    release = current_release(lake)
    if release is not None and release.index_id is not None:
        return release.index_id
    return newest_index(lake, model_id=registry.resolve().spec.model_id)


def verify_index(
    lake: Lake, run: Run, *, index_id: str, sample: int = SAMPLE, seed: int = 0
) -> Verification:
    """Compare an index's files with what was committed, its rows with `vectors`, and `sample` rows' vectors and codes.

    Tables and files are only read. Raises LakeError where there is no such index, or vacuum-indexes is removing it,
    IndexDataError where `vectors` is another table than it was built from.
    """
    row = require_index(lake, index_id)
    require_not_removing(lake, [index_id])
    require_of_vectors(lake, row)
    root = index_folder(lake, row)
    run.tags["index_id"] = index_id
    manifest, found = find_manifest(root, index_id=index_id, sha256=row.manifest_sha256)
    if manifest is None:
        return Verification(index_id, root, int(row.vectors_version), True, {}, tuple(found))
    require_not_removing(lake, index_and_base(manifest))
    found += compare_rows(
        manifest, row.asDict(), own=_own(lake, manifest), listed=_listed(lake, index_id)
    )
    version, chosen = _sample_rows(lake, manifest, sample=sample, seed=seed)
    read = (lake.name("vectors"), version, "vectors")
    run.inputs += [] if read in run.inputs else [read]
    spec = VerifySpec(root, row.manifest_sha256)
    with run.stage("shards"):
        told = _verify_shards(lake, manifest, spec, chosen=chosen, version=version)
    with run.stage("rows"):
        told += _account(lake, manifest, spec, version=version, found=told)
    rows = {f.file: f.rows for f in told if f.kind == COUNTED}
    found += [f for f in told if f.kind != COUNTED]
    run.counts["findings"], run.counts["sampled"] = len(found), rows.get(SAMPLED, 0)
    own_version = version == manifest.spec.vectors_version
    return Verification(index_id, root, version, own_version, rows, tuple(found))


def _living(lake: Lake, manifest: Manifest, *, version: int) -> DataFrame:
    """(vector_id, id, embedding) of the rows of the index's model at a version."""
    return indexed_vectors(lake, replace(manifest.spec, vectors_version=version))


def _own(lake: Lake, manifest: Manifest) -> list[File]:
    return [_file(row) for row in file_rows(lake, manifest)]


def _listed(lake: Lake, index_id: str) -> list[File]:
    """Rows of `index_shards`; those of older lakes name absolute paths."""
    rows = lake.read("index_shards").where(F.col("index_id") == index_id).collect()
    return [_file(row.asDict()) for row in rows]


def _file(row: dict[str, Any]) -> File:
    # By its name: the folder is the index's or its base's, which the manifest knows.
    name = str(row["path"]).rpartition("/")[2]
    return int(row["shard"]), name, str(row["sha256"]), int(row["bytes"]), int(row["rows"])


def is_vacuumed(error: Exception) -> bool:
    """Whether a version of a table could not be read because its log or its files are gone."""
    return not is_broken_off(error) and any(words in str(error) for words in _VACUUMED)


def _sample_rows(
    lake: Lake, manifest: Manifest, *, sample: int, seed: int
) -> tuple[int, list[int]]:
    """Sampled vector_ids, and the version of `vectors` that they are of: the index's, or the newest where that is gone."""
    own, newest = manifest.spec.vectors_version, lake.version("vectors")
    try:
        return own, _choose(lake, manifest, version=own, sample=sample, seed=seed)
    except Exception as error:
        if own == newest or not is_vacuumed(error):
            raise
        log.warning(
            "version %d of vectors, which index %s was built from, can no longer be read; it is compared with the "
            "newest, %d: rows that it lacks may have come since",
            own,
            manifest.spec.index_id,
            newest,
        )
    return newest, _choose(lake, manifest, version=newest, sample=sample, seed=seed)


def _choose(lake: Lake, manifest: Manifest, *, version: int, sample: int, seed: int) -> list[int]:
    """vector_ids of about _BLOCKS blocks of the table. Every file that has some is read, by one narrow column."""
    each = max(1, sample // _BLOCKS)
    number, salt = F.col("vector_id"), F.lit(seed)
    block = F.xxhash64(F.shiftright("vector_id", _BLOCK_BITS), salt)
    few = F.pmod(F.xxhash64("vector_id", salt), F.lit(max(1, 2**_BLOCK_BITS // each))) != 0
    rows = _living(lake, manifest, version=version).select("vector_id")
    with clear_task_errors():
        chosen = rows.orderBy(few, block, F.xxhash64(number, salt), number).head(max(1, sample))
    return [row.vector_id for row in chosen[:sample]]


def _verify_shards(
    lake: Lake, manifest: Manifest, spec: VerifySpec, *, chosen: list[int], version: int
) -> list[Finding]:
    """What the tasks say of files, one task a shard and one for what shards share."""
    tasks = len(manifest.all_shards(spec.root)) + 1
    blocks = sorted({number >> _BLOCK_BITS for number in chosen})
    # Ranges, as these are what Parquet skips row groups by.
    ranges = [
        F.col("vector_id").between(b << _BLOCK_BITS, ((b + 1) << _BLOCK_BITS) - 1) for b in blocks
    ]
    within = functools.reduce(operator.or_, ranges, F.lit(False))
    rows = _living(lake, manifest, version=version)
    rows = rows.where(within & F.col("vector_id").isin(chosen))
    shard = F.explode(F.array(*homes(manifest), F.lit(tasks - 1))).alias("shard")
    rows = rows.select(shard, "vector_id", "embedding")
    marks = lake.spark.range(0, tasks, 1, 1).selectExpr("CAST(id AS int) AS shard")
    rows = rows.unionByName(marks, allowMissingColumns=True)
    if hasattr(rows, "repartitionById"):  # a partition is a shard
        rows = rows.repartitionById(tasks, "shard")
    else:
        rows = rows.repartition(tasks, "shard")
    return list(merge_findings(on_executors(rows, verify_batches, spec=spec).rows()))


def homes(manifest: Manifest) -> list[Column]:
    """The numbers of the shards that a row of `vectors` may be in: of the base, and of those added to it."""
    added = len(manifest.shards)
    count = len(manifest.base.shards) if manifest.base else added
    own = F.pmod(F.xxhash64("vector_id"), F.lit(count))
    if manifest.base is None:
        return [own.cast("int")]
    return [own.cast("int"), (count + F.pmod(F.xxhash64("vector_id"), F.lit(added))).cast("int")]


def _account(
    lake: Lake, manifest: Manifest, spec: VerifySpec, *, version: int, found: Iterable[Finding]
) -> list[Finding]:
    """What is said of rows: where each is, of those files that could be read."""
    own, newest = manifest.spec.vectors_version, lake.version("vectors")
    account = account_spec(manifest, found, at_version=version == own)
    parts = [(number,) for number in parts_to_read(account)]
    listed = lake.spark.createDataFrame(parts, "shard int").repartition(max(1, len(parts)), "shard")
    rows = on_executors(listed, place_rows, spec=spec).frame
    versions = {LIVING: version} if version == newest else {LIVING: version, LIVING_NOW: newest}
    for place, of_version in versions.items():
        living = _living(lake, manifest, version=of_version)
        rows = rows.unionByName(living.select(F.lit(place).alias("place"), "vector_id", "id"))
    name, number = F.xxhash64("id").alias("name"), F.xxhash64("vector_id").alias("hash")
    tasks = 1 + len(versions) * manifest.rows // _ROWS_PER_TASK
    rows = rows.select("place", "vector_id", name, number).repartition(tasks, "vector_id")
    return list(merge_findings(on_executors(rows, account_batches, spec=account).rows()))
