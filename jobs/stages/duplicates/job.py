"""find_duplicates from start to end: every row asks the released index for its neighbours where it lies in `vectors`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake
from jobs.lake.results import replace_table, replaceable
from jobs.lake.runs import Run
from jobs.settings.duplicates import DuplicatesSettings
from jobs.settings.search import SearchSettings
from jobs.settings.settings import Settings
from jobs.stages.duplicates.clusters import CLUSTERS, Clusters, cluster_pairs
from jobs.stages.duplicates.report import write_page
from jobs.stages.search.scatter import shard_parts
from jobs.stages.search.target import Target, search_spec
from udfs.errors import LakeError, SettingsError
from udfs.search.neighbours import NEIGHBOURS_INPUT, neighbour_batches
from udfs.search.row_files import write_vector_ids
from udfs.search.scatter import fresh_part
from udfs.specs import SearchSpec
from udfs.strings import python_values

log = logging.getLogger("gme_lake")

PAIRS = ("id_a", "id_b", "score")


@dataclass(frozen=True)
class DuplicatesReport:
    """What a run of find_duplicates came to. `largest_id` names the largest cluster, if there is one."""

    index_id: str
    pairs: str
    clusters: str
    counts: dict[str, int]
    largest_id: str | None
    page: Path | None

    def __str__(self) -> str:
        shown = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in self.counts.items())
        said = f"index {self.index_id}: {shown}; pairs in {self.pairs}, clusters in {self.clusters}"
        return said if self.page is None else f"{said}\nreport: {self.page}"


def find_duplicates(
    lake: Lake, run: Run, *, target: Target, settings: Settings
) -> DuplicatesReport:
    """Find pairs and clusters of near duplicates and replace the tables that section `duplicates` names.

    Raises LakeError for outputs that cannot be used and for more pairs than the driver may cluster, and IndexDataError
    for a damaged index; then neither table is replaced.
    """
    duplicates = settings.duplicates
    outputs = _outputs(lake, duplicates)
    run.begin()
    run.tags.update({"index_id": target.index_id, "release_id": str(target.release.release_id)})
    with lake.staging(run.run_id) as staging, clear_task_errors():
        pairs = _staged_pairs(lake, run, target, duplicates, staging=staging)
        found = pairs.count()
        if found > duplicates.max_pairs:
            raise LakeError(
                f"{found:,} pairs score duplicates.threshold={duplicates.threshold} or more, and the driver clusters "
                f"up to duplicates.max_pairs={duplicates.max_pairs:,}; raise the threshold, or the bound (some "
                "hundred bytes of driver memory a pair). Nothing was written"
            )
        with run.stage("cluster"):
            clusters = cluster_pairs(pairs.toArrow())
        with run.stage("write"):
            replace_table(pairs, outputs[0])
            replace_table(_rows_of(lake, clusters.table()), outputs[1])
    counts = _counts(clusters, pairs=found, max_cluster=duplicates.max_cluster)
    run.counts.update(counts)
    largest_id = next(iter(python_values(clusters.ids.take(clusters.firsts[:1]))), None)
    if counts["clusters_too_large"]:
        log.warning(
            "%d clusters have more than duplicates.max_cluster=%d rows, the largest (%s) %d: chains, whose ends need not "
            "be alike. Raise duplicates.threshold to part them",
            counts["clusters_too_large"],
            duplicates.max_cluster,
            largest_id,
            counts["largest_cluster"],
        )
    page = None
    if duplicates.report:
        page = write_page(lake, run, clusters, target=target, settings=settings)
    return DuplicatesReport(target.index_id, *outputs, counts, largest_id, page)


def _outputs(lake: Lake, duplicates: DuplicatesSettings) -> tuple[str, str]:
    """The tables of pairs and of clusters."""
    if duplicates.pairs and duplicates.pairs == duplicates.clusters:
        raise SettingsError(
            f"duplicates.pairs and duplicates.clusters are both {duplicates.pairs}: give two tables"
        )
    pairs, clusters = (
        replaceable(lake.spark, table, setting=f"duplicates.{name}", columns=columns)
        for name, table, columns in (
            ("pairs", duplicates.pairs, PAIRS),
            ("clusters", duplicates.clusters, CLUSTERS.names),
        )
    )
    return pairs, clusters


def _staged_pairs(
    lake: Lake, run: Run, target: Target, duplicates: DuplicatesSettings, *, staging: str
) -> DataFrame:
    """PAIRS rows, each unordered pair once with id_a < id_b, as files in the staging folder."""
    version = lake.version("vectors")
    search = SearchSettings(
        k=duplicates.k + 1,  # a row is its own nearest
        nprobe=duplicates.nprobe,
        k_factor=duplicates.k_factor,
        executor_bytes=duplicates.executor_bytes,
    )
    rows = lake.read("vectors", version=version)
    rows = rows.where((F.col("model_id") == target.model_id) & (F.col("status") == "ok"))
    with run.stage("changes since index"):
        spec = search_spec(run, search, target=target, staging=staging, version=version)
        spec = replace(spec, min_score=duplicates.threshold)
    with run.stage("copies"):
        spec, copies = _copies(run, rows, spec, staging=staging)
    parts = [tuple(part) for part in shard_parts(target.manifest, search)]
    near = _neighbours(rows.select(*NEIGHBOURS_INPUT.names), spec, parts)
    sides = (F.least("id", "neighbour").alias("id_a"), F.greatest("id", "neighbour").alias("id_b"))
    pairs = near.select(*sides, "score").groupBy("id_a", "id_b").agg(F.max("score").alias("score"))
    with run.stage("search"):
        pairs.unionByName(copies).write.mode("overwrite").parquet(f"{staging}/pairs")
    return lake.spark.read.parquet(f"{staging}/pairs")


def _copies(
    run: Run, rows: DataFrame, spec: SearchSpec, *, staging: str
) -> tuple[SearchSpec, DataFrame]:
    """`spec` that finds one row of each content, the one of the smallest id, and PAIRS of it with its exact copies.

    Copies would be each other's k nearest, and hide what else is near.
    """
    contents = rows.groupBy("content_hash").agg(
        F.min(F.struct("id", "vector_id")).alias("first"), F.count(F.lit(1)).alias("rows")
    )
    contents.write.mode("overwrite").parquet(f"{staging}/contents")
    contents = rows.sparkSession.read.parquet(f"{staging}/contents")
    several = contents.where("rows > 1").select("content_hash", "first")
    pairs = rows.select("content_hash", "id").join(several, "content_hash").where("id <> first.id")
    pairs = pairs.select(F.col("first.id").alias("id_a"), F.col("id").alias("id_b"))
    run.counts["exact_copies"] = pairs.count()
    if run.counts["exact_copies"]:
        path = f"{staging}/contents.int64"
        firsts = contents.select("first.vector_id").repartition(1)
        on_executors(firsts, write_vector_ids, path=path).rows()
        spec = replace(spec, allowed=path)
    return spec, pairs.withColumn("score", F.lit(1.0))


def _neighbours(rows: DataFrame, spec: SearchSpec, parts: list[tuple[int, ...]]) -> DataFrame:
    """NEIGHBOURS of NEIGHBOURS_INPUT rows, searched in the tasks that read them: vectors are not shuffled.

    Where one task cannot open all shards the rows are read once for each part of them, and only what was found is
    brought together.
    """
    if len(parts) == 1:
        return on_executors(rows, neighbour_batches, spec=spec).frame
    log.info("the index is searched in %d parts; vectors are read once for each", len(parts))
    found = on_executors(rows, neighbour_batches, spec=spec, shards=parts[0]).frame
    for part in parts[1:]:
        found = found.union(on_executors(rows, neighbour_batches, spec=spec, shards=part).frame)
    if spec.fresh_root is not None:
        found = found.union(on_executors(rows, neighbour_batches, spec=fresh_part(spec)).frame)
    best = Window.partitionBy("id").orderBy(F.desc("score"), "vector_id")
    ranked = found.withColumn("rank", F.row_number().over(best))
    return ranked.where(F.col("rank") < spec.options.k).drop("rank")


def _rows_of(lake: Lake, table: pa.Table) -> DataFrame:
    return lake.spark.createDataFrame(table, CLUSTERS.ddl)


def _counts(clusters: Clusters, *, pairs: int, max_cluster: int) -> dict[str, int]:
    sizes = clusters.size[clusters.firsts]
    return {
        "pairs": pairs,
        "clusters": clusters.count,
        "rows_in_clusters": len(clusters.ids),
        "largest_cluster": int(sizes.max(initial=0)),
        "clusters_too_large": int((sizes > max_cluster).sum()),
    }
