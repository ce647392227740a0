"""search_table from start to end: embed the queries with the release's model, search in tasks, write the results."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake, read_table
from jobs.lake.registry import ResolvedModel
from jobs.lake.results import replace_table, replaceable
from jobs.lake.runs import Run
from jobs.settings.search import SearchSettings
from jobs.settings.settings import Settings
from jobs.stages.embed.run_model import embed_rows
from jobs.stages.search.queries import query_reading, read_queries
from jobs.stages.search.scatter import search_scattered, shard_parts
from jobs.stages.search.target import Target, search_spec
from udfs.errors import IndexDataError
from udfs.index.manifest import Manifest
from udfs.search.answers import SEARCH_OUTPUT
from udfs.search.batches import search_batches
from udfs.specs import EmbedSpec, SearchSpec

log = logging.getLogger("gme_lake")

QUERIES_PER_TASK = 1024


@dataclass(frozen=True)
class SearchReport:
    """What a run of search_table came to, in rows."""

    index_id: str
    output: str
    counts: dict[str, int]

    def __str__(self) -> str:
        shown = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in self.counts.items())
        return f"index {self.index_id}: {shown}; results in {self.output}"


def search_table(
    lake: Lake, run: Run, *, target: Target, model: ResolvedModel, settings: Settings
) -> SearchReport:
    """Search for every query of `search.queries` and replace `search.output` with the results.

    One row per hit; a query without hits has one row without rank, whose status and error say why. Raises LakeError
    for queries or an output that cannot be used, IndexDataError for an index that is damaged or of another model.
    """
    search, spark = settings.search, lake.spark
    columns = SEARCH_OUTPUT.names
    output = replaceable(spark, search.output, setting="search.output", columns=columns)
    queries = read_queries(spark, search.queries, image_base=search.image_base)
    reading = query_reading(spark, settings, search.queries, image_base=search.image_base)
    spec = settings.embed.spec(model.spec, settings.serving.spec(), reading)
    run.begin()
    with (
        open_results(
            run, queries, target=target, model=model, spec=spec, settings=search
        ) as results,
        run.stage("search"),
        clear_task_errors(),
    ):
        replace_table(results, output)
    counts = _count(read_table(spark, output), queries, k=search.k)
    run.counts.update(counts)
    return SearchReport(target.index_id, output, counts)


@contextmanager
def open_results(
    run: Run,
    queries: DataFrame,
    *,
    target: Target,
    model: ResolvedModel,
    spec: EmbedSpec,
    settings: SearchSettings,
) -> Iterator[DataFrame]:
    """Results (SEARCH_OUTPUT) of `queries` (columns QUERIES), to be read inside the block.

    The queries are embedded once, by `spec`, before the block. Raises IndexDataError where the model is not the index's.
    """
    if model.spec.model_id != target.model_id:
        raise IndexDataError(
            f"queries embedded by model {model.spec.model_id} cannot search index {target.index_id} of model "
            f"{target.model_id}; search with the model of the release"
        )
    run.model = model
    run.tags.update({"index_id": target.index_id, "release_id": str(target.release.release_id)})
    with run.lake.staging(run.run_id) as staging:
        with run.stage("embed"):
            embedded = embed_queries(run, queries, spec, folder=f"{staging}/queries")
        with run.stage("changes since index"):
            how = search_spec(run, settings, target=target, staging=staging)
        yield search_embedded(embedded, spec=how, manifest=target.manifest, settings=settings)


def search_embedded(
    embedded: DataFrame, *, spec: SearchSpec, manifest: Manifest, settings: SearchSettings
) -> DataFrame:
    """SEARCH_OUTPUT rows of embedded queries (SEARCH_INPUT), over all shards at once or scattered."""
    parts = shard_parts(manifest, settings)
    blocks = max(math.ceil(embedded.count() / QUERIES_PER_TASK), 1)
    if len(parts) > 1:
        log.info("index %s is searched in %d parts", manifest.spec.index_id, len(parts))
        return search_scattered(embedded, spec=spec, parts=parts, blocks=blocks)
    return on_executors(embedded.repartition(blocks), search_batches, spec=spec).frame


def embed_queries(run: Run, queries: DataFrame, spec: EmbedSpec, *, folder: str) -> DataFrame:
    """SEARCH_INPUT rows of all queries, embedded once into files."""
    spec = replace(spec, notes=f"{folder}-slow-rows")
    inputs = queries.select(
        F.col("query_id").alias("key"),
        *("text", "image", "image_uri", "instruction"),
        F.lit(True).alias("is_query"),
    )
    embedded = embed_rows(run, inputs, spec=spec, folder=folder)
    made = embedded.withColumnRenamed("key", "query_id")
    wanted = ("query_id", "k", "status", "error", "embedding")
    return queries.select("query_id", "k").join(made, "query_id").select(*wanted)


def _count(results: DataFrame, queries: DataFrame, *, k: int) -> dict[str, int]:
    """Queries, those without hits, hits, queries with fewer than asked for because there are no more, and if any,
    those whose hits k cut and those whose search was given up.
    """
    found = results.groupBy("query_id").agg(
        F.count("rank").alias("hits"), F.first("status").alias("status")
    )
    both = found.join(queries.select("query_id", F.coalesce("k", F.lit(k)).alias("k")), "query_id")
    row = both.agg(
        F.count(F.lit(1)).alias("queries"),
        F.count_if(F.col("hits") == 0).alias("queries_without_hits"),
        F.count_if((F.col("hits") > 0) & (F.col("hits") < F.col("k"))).alias("fewer_than_k"),
        F.coalesce(F.sum("hits"), F.lit(0)).alias("hits"),
        *(F.count_if(F.col("status") == name).alias(name) for name in ("cut", "incomplete")),
    ).first()
    counts = {name: int(count) for name, count in row.asDict().items()} if row else {}
    return {n: count for n, count in counts.items() if count or n not in {"cut", "incomplete"}}
