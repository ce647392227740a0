"""The queries an index is measured with: a query table embedded by the index's model, or rows of the index held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake, read_table, table_given
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.lake.sql import identifier
from jobs.settings.embed import SourceSettings
from jobs.settings.index import RecallSettings
from jobs.settings.settings import Settings
from jobs.stages.index.vectors import indexed_vectors
from jobs.stages.search.job import embed_queries
from jobs.stages.search.queries import query_reading, read_queries, read_raw
from udfs.errors import IndexDataError, LakeError
from udfs.recall.query_set import (
    QuerySetSpec,
    query_set_path,
    write_query_set,
)
from udfs.specs import IndexSpec

HELD_OUT_KIND = "row"
_SET_COLUMNS = ("query_id", "own", "embedding")


@dataclass(frozen=True)
class AskedQueries:
    """A query set in a file; query_ids, kinds and segment values stand in the order of the file.

    `kinds` are modalities (text, image, image,text), or `row` for held-out rows. `refused` queries could not be
    embedded and are in none of this.
    """

    origin: Literal["table", "held_out"]
    query_set: str
    path: str
    query_ids: tuple[str, ...]
    kinds: tuple[str, ...]
    segments: tuple[dict[str, str | None], ...]
    refused: int


def write_queries(
    lake: Lake, run: Run, *, spec: IndexSpec, model: ResolvedModel, settings: Settings
) -> AskedQueries:
    """Write the queries of section `recall` as a query set. Raises LakeError where they cannot be used."""
    if not settings.recall.queries:
        return _hold_out(lake, spec, settings.recall, settings.source)
    with lake.staging(run.run_id) as staging:
        return _of_table(run, spec, model, settings, staging)


def recall_folder(lake: Lake) -> str:
    """Where query sets and exact results are kept."""
    return lake.folder("recall")


def _of_table(
    run: Run, spec: IndexSpec, model: ResolvedModel, settings: Settings, staging: str
) -> AskedQueries:
    lake, recall = run.lake, settings.recall
    if model.spec.model_id != spec.model_id:
        raise IndexDataError(
            f"queries embedded by model {model.spec.model_id} cannot measure index {spec.index_id} of model "
            f"{spec.model_id}"
        )
    table, base = recall.queries, recall.image_base
    queries = read_queries(lake.spark, table, image_base=base)
    reading = query_reading(lake.spark, settings, table, image_base=base)
    how = settings.embed.spec(model.spec, settings.serving.spec(), reading)
    with run.stage("embed"):
        made = embed_queries(run, queries, how, folder=f"{staging}/queries")
    good = made.where("status = 'ok'")
    labels = queries.select("query_id", _kind().alias("kind"))
    if recall.segments:
        raw = read_raw(lake.spark, table)
        columns = _segment_columns(raw, recall.segments, table)
        named = raw.select(F.col("query_id").cast("string").alias("query_id"), *columns)
        labels = labels.join(named, "query_id")
    refused = made.where("status <> 'ok'").count()
    vectors = good.select("query_id", F.lit(None).cast("bigint").alias("own"), "embedding")
    return _written(lake, spec, vectors, labels, recall.segments, ("table", refused))


def _hold_out(
    lake: Lake, spec: IndexSpec, settings: RecallSettings, source: SourceSettings
) -> AskedQueries:
    """Rows of the index by hash; each is left out of its own exact and found results."""
    rows = indexed_vectors(lake, spec)
    order = F.xxhash64("vector_id", F.lit(settings.seed))
    # Ids first: that reads one narrow column, where a sample of rows would read every vector.
    names = rows.select("vector_id").orderBy(order, "vector_id").head(settings.held_out)
    sampled = rows.where(F.col("vector_id").isin([row.vector_id for row in names]))
    vectors = sampled.select(
        F.col("id").alias("query_id"), F.col("vector_id").alias("own"), "embedding"
    )
    labels = sampled.select(F.col("id").alias("query_id"), F.lit(HELD_OUT_KIND).alias("kind"))
    if settings.segments:
        if not source.table:
            raise LakeError(
                f"recall.segments={settings.segments}: held-out rows have segments in the source table only; "
                "set source.table (and source.id), or recall.queries"
            )
        table = table_given(source.table)
        raw = read_table(lake.spark, table)
        columns = _segment_columns(raw, settings.segments, table)
        named = raw.select(F.col(identifier(source.id)).cast("string").alias("query_id"), *columns)
        labels = labels.join(named.dropDuplicates(["query_id"]), "query_id", "left")
    return _written(lake, spec, vectors, labels, settings.segments, ("held_out", 0))


def _written(
    lake: Lake,
    spec: IndexSpec,
    vectors: DataFrame,
    labels: DataFrame,
    segments: list[str],
    facts: tuple[Literal["table", "held_out"], int],
) -> AskedQueries:
    origin, refused = facts
    folder = recall_folder(lake)
    rows = vectors.select(*_SET_COLUMNS).repartition(1)
    missing = LakeError(
        f"there is no query to measure with: {refused} were refused; give others in recall.queries"
    )
    row = on_executors(rows, write_query_set, spec=QuerySetSpec(folder, spec.dim)).one_row(missing)
    by_id: dict[str, Any] = {found.query_id: found for found in labels.collect()}
    mine = [by_id[query_id] for query_id in row.query_ids]
    return AskedQueries(
        origin=origin,
        query_set=row.query_set,
        path=query_set_path(folder, row.query_set),
        query_ids=tuple(row.query_ids),
        kinds=tuple(found.kind for found in mine),
        segments=tuple({name: found[name] for name in segments} for found in mine),
        refused=refused,
    )


def _kind() -> Column:
    has_text = F.coalesce(F.trim("text") != "", F.lit(False))
    has_image = F.col("image").isNotNull() | F.col("image_uri").isNotNull()
    return F.when(has_text & has_image, "image,text").when(has_image, "image").otherwise("text")


def _segment_columns(frame: DataFrame, names: list[str], where: str) -> list[Column]:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise LakeError(
            f"recall.segments: {where} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}"
        )
    return [F.col(identifier(name)).cast("string").alias(name) for name in names]
