"""Rankings through an index: each corpus gets one of its own, built and searched by the code of the jobs."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.task_errors import clear_task_errors
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.stages.evaluate.figures.measuring import EmbeddedTasks
from jobs.stages.evaluate.figures.ranking import best_hits
from jobs.stages.index.job import build_whole
from jobs.stages.index.plan import plan_at
from jobs.stages.search.job import search_embedded
from udfs.index.manifest import Manifest
from udfs.search.answers import SEARCH_OUTPUT
from udfs.specs import SearchOptions, SearchSpec


@dataclass(frozen=True)
class Indexes:
    """Folders of the corpora's indexes, by corpus; `factories` says what they are, e.g. `Flat`."""

    model_id: str
    roots: dict[str, str]
    factories: str


def corpus_indexes(asked: EmbeddedTasks, run: Run, *, model: ResolvedModel) -> Indexes:
    """Build an index of every corpus by the settings `index`, as files of this run.

    Raises SettingsError where the settings do not fit a corpus (too few rows to train on).
    """
    lake, settings = asked.suite.lake, asked.suite.settings.index
    version = lake.version("vectors")
    roots, factories = {}, set()
    for corpus, (rows, rejected) in sorted(asked.counts.documents.items()):
        if rows == rejected:
            continue
        kept = rows - rejected
        planned = plan_at(lake, settings, model=model, version=version, rows=kept)
        root = f"{asked.folder}/indexes/{corpus}"
        plan = replace(planned.spec.plan, full_text=False)  # it is the vectors that are judged
        spec = replace(planned.spec, index_id=corpus, root=root, plan=plan)
        good = asked.vectors.where((F.col("corpus") == corpus) & (F.col("status") == "ok"))
        vectors = good.select("vector_id", "id", "embedding")
        manifest, _ = build_whole(vectors, run, spec, rows=kept)
        manifest.write(root)
        roots[corpus] = root
        factories.add(spec.plan.factory)
    return Indexes(model.spec.model_id, roots, ", ".join(sorted(factories)))


def rank_by_indexes(asked: EmbeddedTasks, indexes: Indexes, *, depth: int) -> DataFrame:
    """RANKED rows of each query's `depth` best documents that the index of its corpus finds."""
    lake, queries = asked.suite.lake, asked.queries.where("status = 'ok'")
    wanted = (F.lit(None).cast("int").alias("k"), "status", "error", "embedding")
    found = []
    for corpus, root in indexes.roots.items():
        mine = queries.where(F.col("corpus") == corpus)
        rows = mine.select(F.col("key").alias("query_id"), *wanted)
        spec = SearchSpec(root, indexes.model_id, SearchOptions(depth + 1))
        with clear_task_errors():
            hits = search_embedded(
                rows,
                spec=spec,
                manifest=Manifest.read(root),
                settings=asked.suite.settings.search,
            )
        found.append(hits)
    none = lake.spark.createDataFrame([], SEARCH_OUTPUT.ddl)
    hits = functools.reduce(lambda one, other: one.unionByName(other), found, none)
    hits = hits.where("rank IS NOT NULL").select(
        F.col("query_id").alias("key"), "id", "vector_id", "score"
    )
    named = queries.select("key", "task", "query_id", "self_id")
    return best_hits(hits.join(named, "key"), depth=depth)
