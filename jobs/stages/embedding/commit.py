"""The one commit of a micro-batch, and the commit that removes rows the source no longer has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.driver.conflicts import again_on_conflict, is_conflict
from jobs.stages.embedding.work import Embedding, stored_contents
from udfs.errors import LakeError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


_TXN = "spark.databricks.delta.write.txn"
_OTHER_ROW = "the row to be replaced is not the one that was looked at"
_DELETE = (
    "WHEN MATCHED AND s.op = 'delete' "
    f"AND IF(t.vector_id = s.replaced_id, true, raise_error('{_OTHER_ROW}')) THEN DELETE"
)


def commit(
    job: Embedding,
    spark: SparkSession,
    staged: DataFrame,
    *,
    rows: int,
    replaces: bool,
    txn: tuple[str, int],
) -> None:
    """MERGE staged rows (id, content_hash, replaced_id, status, error, embedding) into `vectors`.

    `rows` is how many there are, `replaces` whether any of them replaces an older vector row, `replaced_id`.

    New ids are inserted if they are still new; a changed id's row is deleted, if it is still the one that was looked
    at, and inserted anew, so that it gets a fresh vector_id. One MERGE rather than an append: an append cannot see what
    another run has just inserted. It is made again where Delta refuses it, as it does for any commit to a table with
    an identity column meanwhile, those of other models too.
    Raises LakeError where this transaction, or another run's, was already committed.
    """
    from pyspark.sql import functions as F

    columns = ["id", "content_hash", "status", "error", "embedding"]
    key = F.expr("IF(replaced_id IS NULL, id, NULL) AS merge_key")
    changes = staged.select(key, F.lit("insert").alias("op"), "replaced_id", *columns)
    if replaces:
        old = staged.where("replaced_id IS NOT NULL").withColumn("merge_key", F.col("id"))
        gone = old.select("merge_key", F.lit("delete").alias("op"), "replaced_id")
        changes = changes.unionByName(gone, allowMissingColumns=True)
    changes.createOrReplaceTempView("gme_changes")
    run = job.run.run_id
    statement = f"""
        MERGE INTO {job.lake.name("vectors")} t USING gme_changes s
        ON t.model_id = '{job.model_id}' AND t.id = s.merge_key
        {_DELETE if replaces else ""}
        WHEN NOT MATCHED AND s.op = 'insert' THEN
          INSERT (model_id, id, content_hash, status, error, embedding, run_id, embedded_at)
          VALUES ('{job.model_id}', s.id, s.content_hash, s.status, s.error, s.embedding, '{run}', current_timestamp())
    """
    written = LakeError(
        f"another run has written vectors of {job.source.table} while this one embedded the same rows; "
        "nothing was written twice. Let one run finish, then start again"
    )
    try:
        with _transaction(spark, txn):
            inserted = _merged(spark, statement)
    except Exception as error:
        if _OTHER_ROW in str(error):
            raise written from error
        raise
    if inserted != rows:
        raise written


@again_on_conflict
def _merged(spark: SparkSession, statement: str) -> int:
    """Rows that a MERGE has inserted."""
    result = spark.sql(statement).first()
    return 0 if result is None else int(result.num_inserted_rows)


def remove_deleted(job: Embedding, *, source_version: int) -> int:
    """Delete the vector rows whose id the source does not have at `source_version`; returns how many."""
    spark = job.lake.spark
    ids = job.source.ids(spark, version=source_version)
    stored = stored_contents(job, version=job.lake.version("vectors"))
    folder = f"{job.staging}/deleted"
    stored.join(ids, "id", "left_anti").select("vector_id").write.mode("overwrite").parquet(folder)
    gone = spark.read.parquet(folder)
    count = gone.count()
    if count:
        job.run.begin()
        gone.createOrReplaceTempView("gme_deleted")
        _merged(
            spark,
            f"MERGE INTO {job.lake.name('vectors')} t USING gme_deleted s "
            f"ON t.model_id = '{job.model_id}' AND t.vector_id = s.vector_id WHEN MATCHED THEN DELETE",
        )
    return count


@contextmanager
def clear_conflicts(table: str) -> Iterator[None]:
    """Turn the many spellings of a concurrent commit into one LakeError."""
    try:
        yield
    except LakeError:
        raise
    except Exception as error:
        if is_conflict(error):
            raise LakeError(
                f"another run is writing vectors of {table} at the same time; nothing was written twice. Let one "
                f"run finish, then start again ({type(error).__name__})"
            ) from error
        raise


@contextmanager
def _transaction(spark: SparkSession, txn: tuple[str, int]) -> Iterator[None]:
    spark.conf.set(f"{_TXN}AppId", txn[0])
    spark.conf.set(f"{_TXN}Version", str(txn[1]))
    try:
        yield
    finally:
        spark.conf.unset(f"{_TXN}AppId")
        spark.conf.unset(f"{_TXN}Version")
