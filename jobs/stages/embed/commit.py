"""The one commit of a micro-batch, and the commit that removes rows the source no longer has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.lake.conflicts import is_conflict
from jobs.lake.sql import literal
from jobs.stages.embed.work import Embedding
from udfs.errors import LakeError

_OTHER_ROW = "the row to be replaced is not the one that was looked at"


def commit(job: Embedding, staged: DataFrame, *, rows: int, replaces: bool) -> None:
    """MERGE staged rows (id, content_hash, replaced_id, status, error, embedding) into `vectors`.

    `rows` is how many there are, `replaces` whether any of them replaces an older vector row, `replaced_id`.

    New ids are inserted if they are still new; a changed id's row is deleted, if it is still the one that was looked
    at, and inserted anew, so that it gets a fresh vector_id. One MERGE rather than an append: an append cannot see what
    another run has just inserted. It is made again where Delta refuses it, as it does for any commit to a table with
    an identity column meanwhile, those of other models too. Made twice, it changes nothing the second time: what is
    pending is found by comparing with the table.
    Raises LakeError where another run has written the same rows meanwhile.
    """
    job.claim.require()
    columns = ["id", "content_hash", "status", "error", "embedding"]
    key = F.expr("IF(replaced_id IS NULL, id, NULL) AS merge_key")
    changes = staged.select(key, F.lit("insert").alias("op"), "replaced_id", *columns)
    delete = ""
    if replaces:
        old = staged.where("replaced_id IS NOT NULL").withColumn("merge_key", F.col("id"))
        gone = old.select("merge_key", F.lit("delete").alias("op"), "replaced_id")
        changes = changes.unionByName(gone, allowMissingColumns=True)
        looked_at = f"IF(t.vector_id = s.replaced_id, true, raise_error({literal(_OTHER_ROW)}))"
        delete = f"WHEN MATCHED AND s.op = 'delete' AND {looked_at} THEN DELETE"
    model, run = literal(job.model_id), literal(job.run.run_id)
    insert = f"""
        WHEN NOT MATCHED AND s.op = 'insert' THEN
          INSERT (model_id, id, content_hash, status, error, embedding, run_id, embedded_at)
          VALUES ({model}, s.id, s.content_hash, s.status, s.error, s.embedding, {run}, current_timestamp())
    """
    written = LakeError(
        f"another run has written vectors of {job.source.table} while this one embedded the same rows; "
        "nothing was written twice. Let one run finish, then start again"
    )
    try:
        made = job.run.merge(
            "vectors",
            changes,
            on=f"t.model_id = {model} AND t.id = s.merge_key",
            then=f"{delete} {insert}",
        )
    except Exception as error:
        if _OTHER_ROW in str(error):
            raise written from error
        raise
    if int(made.num_inserted_rows) != rows:
        raise written


def remove_gone(job: Embedding, gone: DataFrame, *, rows: int) -> None:
    """Delete the vector rows of `gone` (vector_id), of which there are `rows`. Raises LakeError where fewer were there."""
    job.claim.require()
    made = job.run.merge(
        "vectors",
        gone,
        on=f"t.model_id = {literal(job.model_id)} AND t.vector_id = s.vector_id",
        then="WHEN MATCHED THEN DELETE",
    )
    deleted = int(made.num_deleted_rows)
    if deleted != rows:
        raise LakeError(
            f"{rows:,} vector rows were to be deleted and {deleted:,} were: another run has written vectors of "
            f"{job.source.table} meanwhile. Let one run finish, then start again"
        )


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
