"""Candidates of every query, best first: by the model through an index of all candidates, or at random."""

from __future__ import annotations

import logging

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.lake.indexes import read_manifest, require_index
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run, record_end
from jobs.stages.evaluate.data.corpora import Suite
from jobs.stages.index.job import build_index
from jobs.stages.index.plan import plan_index
from jobs.stages.search.job import search_embedded
from udfs.specs import SearchOptions, SearchSpec

log = logging.getLogger("gme_lake")


def nearest(suite: Suite, embedded: DataFrame, model: ResolvedModel, *, depth: int) -> DataFrame:
    """(query_id, rank, key, score) of each query's `depth` best candidates, through an index planned by rule.

    `embedded`: SEARCH_INPUT rows. Candidates are the documents of the suite, which has one corpus.
    """
    lake, settings = suite.lake, suite.settings
    with record_end(Run(lake, "build_index", settings.to_json())) as run:
        with run.stage("plan"):
            planned = plan_index(lake, settings.index, model=model)
        log.info("%s", planned)
        index = build_index(lake, run, model=model, planned=planned).spec
    row = require_index(lake, index.index_id)
    manifest = read_manifest(lake, row)
    spec = SearchSpec(
        root=index.root,
        model_id=index.model_id,
        options=SearchOptions(depth),
        manifest_sha256=str(row.manifest_sha256),
    )
    hits = search_embedded(embedded, spec=spec, manifest=manifest, settings=settings.search)
    key = F.expr("substring(id, instr(id, '/') + 1)").alias("key")
    return hits.where("rank IS NOT NULL").select("query_id", "rank", key, "score")


def at_random(embedded: DataFrame, vectors: DataFrame, *, depth: int, seed: int) -> DataFrame:
    """(query_id, rank, key, score): `depth` draws with replacement for each query, doubles dropped; score is null.

    `vectors`: rows of `Suite.vectors`, of which those that have one are drawn from.
    """
    keys = vectors.where("status = 'ok'").select(F.col("id").alias("key"))
    numbered = keys.withColumn("number", F.row_number().over(Window.orderBy("key")) - 1)
    draws = embedded.where("status = 'ok'").select(
        "query_id", F.explode(F.sequence(F.lit(1), F.lit(depth))).alias("rank")
    )
    drawn = F.pmod(F.xxhash64("query_id", "rank", F.lit(seed)), F.lit(keys.count())).cast("int")
    first = draws.withColumn("number", drawn).groupBy("query_id", "number").agg(F.min("rank"))
    found = first.withColumnRenamed("min(rank)", "rank").join(numbered, "number")
    return found.select("query_id", "rank", "key", F.lit(None).cast("double").alias("score"))
