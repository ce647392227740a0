"""The end of a run: every id of the source has one vector row, no other id has one, and all rows are counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.settings.embed import REJECTED
from jobs.stages.embed.work import Embedding, read_contents
from udfs.errors import RowsError

log = logging.getLogger("gme_lake")

# A share of fewer rows says nothing: the first pictures that somebody tries are often the awkward ones.
FEW_ROWS = 100


@dataclass(frozen=True)
class SourceIds:
    """The ids of one version of the source: `counted` has `Source.ids`, in files. Rows are counted with null ids."""

    counted: DataFrame
    rows: int
    repeated: int
    without_id: int

    def repeats(self) -> DataFrame:
        """The ids that more than one row has."""
        return self.counted.where("rows > 1").select("id")


@dataclass(frozen=True)
class Accounts:
    """What the ids of the source and of the model's vector rows come to.

    `outside` were not to be looked at and `left` are for a later run, whatever vector they have; `missing`, `ok` and
    `rejected` (by the statuses that `embed.max_rejected` names, the others together) are of the rest. `stored` are
    all vector rows of the model, `open_ids` has (id, vector_id) of those missing and gone.
    """

    missing: int
    gone: int
    ok: int
    rejected: Mapping[str, int]
    outside: int
    left: int
    stored: int
    open_ids: DataFrame

    @property
    def all_rejected(self) -> int:
        """Rejected rows of any status."""
        return sum(self.rejected.values())

    def examples(self) -> str:
        """A few ids of the source that have no vector row."""
        rows = self.open_ids.where("vector_id IS NULL").orderBy("id").head(5)
        return ", ".join(repr(row.id) for row in rows)


def count_source(job: Embedding, *, version: int) -> SourceIds:
    """Count the source's ids at a version, once, into the staging folder."""
    spark = job.lake.spark
    total = job.source.read(spark, version=version).count()
    folder = f"{job.staging}/ids-{version}"
    job.source.ids(spark, version=version).write.mode("overwrite").parquet(folder)
    counted = spark.read.parquet(folder)
    row = counted.agg(F.sum("rows").alias("rows"), F.count("id").alias("ids")).first()
    with_id = int(row.rows or 0) if row else 0
    return SourceIds(counted, total, with_id - (int(row.ids) if row else 0), total - with_id)


def compare_ids(job: Embedding, ids: SourceIds, *, left: DataFrame | None) -> Accounts:
    """Put the source's ids beside those of the model's vector rows; `left` (id) are those that wait for a later run."""
    spark = job.lake.spark
    stored = read_contents(job, version=job.lake.version("vectors")).drop("content_hash")
    both = _mark(job, ids, left=left).join(stored, "id", "full_outer")
    looked = F.col("part") == "looked"
    paired = looked & F.col("vector_id").isNotNull()
    is_missing = looked & F.col("vector_id").isNull()
    is_rejected = paired & (F.col("status") != "ok")
    named = [name for name in job.settings.max_rejected if name != REJECTED]
    seen = Observation(f"accounts-{job.run.run_id}")
    both = both.observe(
        seen,
        F.count_if(is_missing).alias("missing"),
        F.count_if(F.col("rows").isNull()).alias("gone"),
        F.count_if(paired & (F.col("status") == "ok")).alias("ok"),
        F.count_if(F.col("part") == "outside").alias("outside"),
        F.count_if(F.col("part") == "left").alias("left"),
        F.count("vector_id").alias("stored"),
        F.count_if(is_rejected & ~F.col("status").isin(named)).alias("rejected"),
        *[
            F.count_if(is_rejected & (F.col("status") == name)).alias(f"rejected_{number}")
            for number, name in enumerate(named)
        ],
    )
    folder = f"{job.staging}/accounts"
    unpaired = both.where(is_missing | F.col("rows").isNull())
    unpaired.select("id", "vector_id").write.mode("overwrite").parquet(folder)
    counts = {name: int(value or 0) for name, value in seen.get.items()}
    rejected = {REJECTED: counts["rejected"]}
    rejected |= {name: counts[f"rejected_{number}"] for number, name in enumerate(named)}
    return Accounts(
        missing=counts["missing"],
        gone=counts["gone"],
        ok=counts["ok"],
        rejected=rejected,
        outside=counts["outside"],
        left=counts["left"],
        stored=counts["stored"],
        open_ids=spark.read.parquet(folder),
    )


def _mark(job: Embedding, ids: SourceIds, *, left: DataFrame | None) -> DataFrame:
    """(id, rows, part): looked, left or outside."""
    counted = ids.counted.select("id", "rows", "inside")
    part = F.when(F.col("inside"), "looked").otherwise("outside")
    if job.source.selection.retry and job.selected is not None:
        counted = counted.join(job.selected.withColumn("selected", F.lit(True)), "id", "left")
        part = F.when(F.col("selected"), "looked").otherwise("outside")
    if left is not None:
        counted = counted.join(left.withColumn("left", F.lit(True)), "id", "left")
        part = F.when(F.col("left"), "left").otherwise(part)
    return counted.select("id", "rows", part.alias("part"))


def require_few_rejected(
    job: Embedding, *, rejected: Mapping[str, int], rows: int, said: str
) -> None:
    """Raise RowsError where a larger share of rows is rejected, by status, than `embed.max_rejected` allows.

    A status with a share of its own counts by it, all others together.
    """
    shares = job.settings.max_rejected
    others = sum(n for status, n in rejected.items() if status == REJECTED or status not in shares)
    for name, allowed in shares.items():
        count = others if name == REJECTED else rejected.get(name, 0)
        if rows > FEW_ROWS and count > allowed * rows:
            given = f"{allowed:g}" if name == REJECTED else f"{name}={allowed:g}"
            raise RowsError(
                f"{count:,} of {rows:,} rows {said} were rejected ({_words(name)}{count / rows:.1%}); "
                f"embed.max_rejected={given} allows less. Look at why (view rejected_rows, column error; "
                "gme-lake embed-table --check tries some rows), mend it and run again, or set embed.max_rejected higher"
            )


def _words(status: str) -> str:
    return "" if status == REJECTED else f"{status}: "


def require_few_gone(job: Embedding, accounts: Accounts) -> None:
    """Raise RowsError where more vectors would be deleted than `embed.max_deleted` allows."""
    allowed = job.settings.max_deleted
    stored = accounts.stored
    if accounts.gone > allowed * stored:
        raise RowsError(
            f"{accounts.gone:,} of {stored:,} vector rows have an id that {job.source.table} no longer has "
            f"({accounts.gone / stored:.1%}); embed.max_deleted={allowed:g} allows less, and nothing was deleted. If the "
            "rows are meant to go, run again with --set embed.max_deleted=1; if not, look at how the table was written"
        )


def require_closed(job: Embedding, ids: SourceIds, accounts: Accounts) -> None:
    """Raise RowsError unless every source row is accounted for: vector rows, rejected, repeated, without id, left out."""
    if accounts.missing:
        raise RowsError(
            f"{accounts.missing:,} ids of {job.source.table} have no vector row after this run: {accounts.examples()}, …. "
            "The run is not finished; run again, which compares every row"
        )
    parts = {
        "embedded": accounts.ok,
        "rejected": accounts.all_rejected,
        "left": accounts.left,
        "outside": accounts.outside,
        "repeated": ids.repeated,
        "without id": ids.without_id,
    }
    counted = sum(parts.values())
    if counted != ids.rows:
        said = " + ".join(f"{count:,} {name}" for name, count in parts.items())
        raise RowsError(
            f"the accounts of {job.source.table} do not close: {said} = {counted:,}, but it has {ids.rows:,} rows"
        )
