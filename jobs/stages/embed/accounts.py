"""The end of a run: every id of the source has one vector row, no other id has one, and all rows are counted."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from jobs.stages.embed.work import Embedding, read_contents
from udfs.errors import RowsError

log = logging.getLogger("gme_lake")

# A share of fewer rows says nothing: the first pictures that somebody tries are often the awkward ones.
FEW_ROWS = 100


@dataclass(frozen=True)
class SourceIds:
    """The ids of one version of the source: `counted` has (id, rows), in files. Rows are counted with null ids."""

    counted: DataFrame
    rows: int
    repeated: int
    without_id: int

    def repeats(self) -> DataFrame:
        """The ids that more than one row has."""
        return self.counted.where("rows > 1").select("id")


@dataclass(frozen=True)
class Accounts:
    """What the ids of the source and of the model's vector rows come to; `open_ids` has (id, vector_id) of no pair."""

    missing: int
    gone: int
    ok: int
    rejected: int
    open_ids: DataFrame

    def examples(self) -> str:
        """A few ids of the source that have no vector row."""
        rows = self.open_ids.where("vector_id IS NULL").orderBy("id").head(5)
        return ", ".join(repr(row.id) for row in rows)


def count_source(job: Embedding, *, version: int) -> SourceIds:
    """Count the source's ids at a version, once, into the staging folder."""
    spark = job.lake.spark
    total = job.source.read(spark, version=version).count()
    ids = job.source.ids(spark, version=version)
    folder = f"{job.staging}/ids-{version}"
    ids.groupBy("id").agg(F.count(F.lit(1)).alias("rows")).write.mode("overwrite").parquet(folder)
    counted = spark.read.parquet(folder)
    row = counted.agg(F.sum("rows").alias("rows"), F.count("id").alias("ids")).first()
    with_id = int(row.rows or 0) if row else 0
    return SourceIds(counted, total, with_id - (int(row.ids) if row else 0), total - with_id)


def compare_ids(job: Embedding, ids: SourceIds) -> Accounts:
    """Put the source's ids beside those of the model's vector rows."""
    spark = job.lake.spark
    stored = read_contents(job, version=job.lake.version("vectors")).drop("content_hash")
    both = ids.counted.join(stored, "id", "full_outer")
    paired = F.col("rows").isNotNull() & F.col("vector_id").isNotNull()
    seen = Observation(f"accounts-{job.run.run_id}")
    both = both.observe(
        seen,
        F.count_if(F.col("vector_id").isNull()).alias("missing"),
        F.count_if(F.col("rows").isNull()).alias("gone"),
        F.count_if(paired & (F.col("status") == "ok")).alias("ok"),
        F.count_if(paired & (F.col("status") != "ok")).alias("rejected"),
    )
    folder = f"{job.staging}/accounts"
    both.where(~paired).select("id", "vector_id").write.mode("overwrite").parquet(folder)
    counts = {name: int(value or 0) for name, value in seen.get.items()}
    return Accounts(**counts, open_ids=spark.read.parquet(folder))


def require_few_rejected(job: Embedding, *, rejected: int, rows: int, said: str) -> None:
    """Raise RowsError where a larger share of rows is rejected than `embed.max_rejected` allows."""
    allowed = job.settings.max_rejected
    if rows > FEW_ROWS and rejected > allowed * rows:
        raise RowsError(
            f"{rejected:,} of {rows:,} rows {said} were rejected ({rejected / rows:.1%}); embed.max_rejected={allowed:g} "
            "allows less. Look at why (view rejected_rows, column error; gme-lake embed-table --check tries some rows), "
            "mend it and run again, or set embed.max_rejected higher"
        )


def require_few_gone(job: Embedding, accounts: Accounts) -> None:
    """Raise RowsError where more vectors would be deleted than `embed.max_deleted` allows."""
    allowed = job.settings.max_deleted
    stored = accounts.gone + accounts.ok + accounts.rejected
    if accounts.gone > allowed * stored:
        raise RowsError(
            f"{accounts.gone:,} of {stored:,} vector rows have an id that {job.source.table} no longer has "
            f"({accounts.gone / stored:.1%}); embed.max_deleted={allowed:g} allows less, and nothing was deleted. If the "
            "rows are meant to go, run again with --set embed.max_deleted=1; if not, look at how the table was written"
        )


def require_closed(job: Embedding, ids: SourceIds, accounts: Accounts) -> None:
    """Raise RowsError unless every source row is accounted for: vector rows, rejected, repeated and without id."""
    if accounts.missing:
        raise RowsError(
            f"{accounts.missing:,} ids of {job.source.table} have no vector row after this run: {accounts.examples()}, …. "
            "The run is not finished; run again, which compares every row"
        )
    counted = accounts.ok + accounts.rejected + ids.repeated + ids.without_id
    if counted != ids.rows:
        raise RowsError(
            f"the accounts of {job.source.table} do not close: {accounts.ok:,} embedded + {accounts.rejected:,} rejected + "
            f"{ids.repeated:,} repeated + {ids.without_id:,} without id = {counted:,}, but it has {ids.rows:,} rows"
        )
