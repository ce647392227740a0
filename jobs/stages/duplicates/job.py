"""find_duplicates from start to end: every row asks the released index for its neighbours where it lies in `vectors`."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake, table_given
from jobs.lake.results import replace_table, replaceable
from jobs.lake.runs import Run
from jobs.settings.duplicates import DuplicatesSettings
from jobs.settings.search import SearchSettings
from jobs.settings.settings import Settings
from jobs.stages.duplicates.clusters import CLUSTERS, Clusters, cluster_pairs
from jobs.stages.duplicates.copies import find_copies
from jobs.stages.duplicates.report import write_page
from jobs.stages.embed.last_source import require_source
from jobs.stages.search.rows import group_values, write_group_file
from jobs.stages.search.scatter import shard_parts
from jobs.stages.search.target import Target, search_spec
from udfs.errors import LakeError, SettingsError
from udfs.search.neighbours import NEIGHBOURS_INPUT, Pairing, neighbour_batches
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
    given = [table_given(table) for table in (duplicates.pairs, duplicates.clusters) if table]
    if len(given) > len(set(given)):
        raise SettingsError(
            f"duplicates.pairs and duplicates.clusters are both {given[0]}: give two tables"
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
    named = rows.select("vector_id", "id", "content_hash")
    pairing: Pairing = "all"
    groups = None
    if duplicates.group_by is not None:
        pairing, groups = duplicates.group_pairs, f"{staging}/groups"
        with run.stage("groups"):
            named = _grouped(run, named, target, duplicates.group_by, staging=staging)
            run.counts["in_groups"] = write_group_file(named, path=groups)
    with run.stage("changes since index"):
        spec = search_spec(run, search, target=target, staging=staging, version=version)
        spec = replace(spec, min_score=duplicates.threshold, groups=groups)
    with run.stage("copies"):
        spec, copies = find_copies(run, named, spec, pairing=pairing, staging=staging)
    parts = [tuple(part) for part in shard_parts(target.manifest, search)]
    near = _neighbours(rows.select(*NEIGHBOURS_INPUT.names), spec, parts, pairing=pairing)
    sides = (F.least("id", "neighbour").alias("id_a"), F.greatest("id", "neighbour").alias("id_b"))
    pairs = near.select(*sides, "score").unionByName(copies)
    pairs = pairs.groupBy("id_a", "id_b").agg(F.max("score").alias("score"))
    with run.stage("search"):
        pairs.write.mode("overwrite").parquet(f"{staging}/pairs")
    return lake.spark.read.parquet(f"{staging}/pairs")


def _grouped(run: Run, named: DataFrame, target: Target, column: str, *, staging: str) -> DataFrame:
    """`named` rows, with the value of a column of the source's newest version, or null where it has none for the id."""
    lake = run.lake
    source = require_source(lake, model_id=target.model_id, asking="duplicates.group_by is")
    values = group_values(lake, source, column, setting="duplicates.group_by")
    run.inputs.append((source.table, source.version, "source"))
    named.join(values, "id", "left").write.mode("overwrite").parquet(f"{staging}/grouped")
    return lake.spark.read.parquet(f"{staging}/grouped")


def _neighbours(
    rows: DataFrame, spec: SearchSpec, parts: list[tuple[int, ...]], *, pairing: Pairing
) -> DataFrame:
    """NEIGHBOURS of NEIGHBOURS_INPUT rows, searched in the tasks that read them: vectors are not shuffled.

    Where one task cannot open all shards the rows are read once for each part of them, and only what was found is
    brought together.
    """
    if len(parts) == 1:
        return on_executors(rows, neighbour_batches, spec=spec, pairing=pairing).frame
    log.info("the index is searched in %d parts; vectors are read once for each", len(parts))
    searches = [{"spec": spec, "shards": part} for part in parts]
    if spec.fresh_root is not None:
        searches.append({"spec": fresh_part(spec)})
    frames = [
        on_executors(rows, neighbour_batches, pairing=pairing, **search).frame
        for search in searches
    ]
    found = functools.reduce(DataFrame.union, frames)
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
