"""The full text of an index's shards: the source's texts, joined to the rows that have vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pydantic
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.stages.embed.last_source import require_source
from jobs.stages.embed.source import Source
from jobs.stages.index.build import by_shard
from udfs.errors import IndexDataError
from udfs.full_text.text_index import FullText, require_tantivy
from udfs.full_text.text_shards import full_text_batches
from udfs.index.files import FileRecord
from udfs.index.manifest import ShardRecord
from udfs.search.index import Index
from udfs.specs import IndexSpec
from udfs.strings import python_values


def add_full_text(
    run: Run, spec: IndexSpec, vectors: DataFrame, shards: Sequence[ShardRecord]
) -> tuple[ShardRecord, ...]:
    """The shards, each with the full text of its rows, where the plan asks for it; `vectors` has all their rows.

    Killed and run again it is written anew: that costs some 20 µs of a core a row. Raises LakeError where the source
    cannot be read, IndexDataError where a shard's texts are not of its rows.
    """
    if not spec.plan.full_text:
        return tuple(shards)
    with run.stage("full text"):
        rows = vectors.select("vector_id", "id")
        texts = rows.join(source_texts(run, model_id=spec.model_id), "id", "left")
        placed = by_shard(
            texts.select("vector_id", "text"), spec, shards=[shard.shard for shard in shards]
        )
        made = on_executors(placed, full_text_batches, root=spec.root).rows()
    found = {row.shard: row for row in made}
    reader = pydantic.TypeAdapter(FileRecord)
    wanted = {shard.shard: shard.rows for shard in shards}
    if {number: row.rows for number, row in found.items()} != wanted:
        raise IndexDataError(
            f"index {spec.index_id}: shards have {wanted} rows, and their full text "
            f"{ {number: row.rows for number, row in sorted(found.items())} }; nothing was committed. Build it again"
        )
    return tuple(
        replace(shard, full_text=reader.validate_json(found[shard.shard].record))
        for shard in shards
    )


def require_texts(lake: Lake, *, model_id: str) -> None:
    """Raise LakeError, before any work, where the full text of a model's rows cannot be made here."""
    require_tantivy()
    _source(lake, model_id=model_id)


def _source(lake: Lake, *, model_id: str) -> Source:
    return require_source(lake, model_id=model_id, asking="index.full_text is", text=True)


def source_texts(run: Run, *, model_id: str) -> DataFrame:
    """(id, text): the texts of the model's source as it is now, by the template that its rows were last embedded with.

    Each id once: of one that the source has twice, the text that sorts first. Raises LakeError where the source, or a
    column of it, is gone, or no run tells which it is.
    """
    lake = run.lake
    source = _source(lake, model_id=model_id)
    run.inputs.append((source.table, source.version, "source"))
    rows = source.rows(source.read(lake.spark, version=source.version))
    return rows.where("id IS NOT NULL").groupBy("id").agg(F.min("text").alias("text"))


def fresh_texts(run: Run, fresh: Index, *, model_id: str) -> FullText:
    """The texts of the rows of an opened index of fresh rows, in this process. Raises LakeError as `source_texts`."""
    names = [name for shard in fresh.shards for name in shard.names.chunks]
    vector_ids = [pa.array(shard.vector_ids) for shard in fresh.shards]
    columns = [pa.chunked_array(vector_ids, pa.int64()), pa.chunked_array(names, pa.string())]
    rows = run.lake.spark.createDataFrame(pa.table(columns, names=["vector_id", "id"]))
    texts = source_texts(run, model_id=model_id)
    found = texts.join(F.broadcast(rows), "id", "right").select("vector_id", "text").toArrow()
    return FullText.of(
        zip(found["vector_id"].to_pylist(), python_values(found["text"]), strict=True)
    )
