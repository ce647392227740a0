"""mine_negatives from start to end: stage pairs, embed both sides, search, choose, write the pairs with negatives."""

from __future__ import annotations

from dataclasses import dataclass

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake, is_path, read_table, table_given
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.lake.sql import literal, table_sql
from jobs.settings.settings import Settings
from jobs.settings.train import MineSettings
from jobs.stages.evaluate.data.corpora import Searched, Suite
from jobs.stages.evaluate.data.tasks import TaskData
from jobs.stages.mine.candidates import at_random, nearest
from jobs.stages.mine.choose import chosen_negatives, count_outcomes, with_negatives
from jobs.stages.mine.pairs import COLUMNS, candidate_rows, locate_images, read_mined_pairs
from jobs.stages.search.job import embed_queries
from udfs.errors import LakeError, SettingsError
from udfs.training.negatives import NegativesSpec


@dataclass(frozen=True)
class MineReport:
    """What a run of mine_negatives came to."""

    output: str
    counts: dict[str, int]

    def __str__(self) -> str:
        shown = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in self.counts.items())
        mean = self.counts["negatives"] / max(1, self.counts["pairs"])
        return f"{shown}; {mean:.2f} negatives a pair in {self.output}"


def mine_negatives(lake: Lake, run: Run, *, model: ResolvedModel, settings: Settings) -> MineReport:
    """Choose hard negatives for every pair of `mine` and replace `mine.output` with the pairs, in one commit.

    No pair is lost: one whose query or positive cannot be embedded has null negatives and is counted. Negatives that
    the pairs had are replaced. Candidates are embedded once per model and kept under the lake. Raises SettingsError or
    LakeError.
    """
    mine, evaluate = settings.mine, settings.evaluate
    output = _check_output(lake.spark, mine)
    source = read_mined_pairs(lake, run, mine=mine, evaluate=evaluate)
    run.model = model
    run.begin()
    with lake.staging(run.run_id) as staging:
        with run.stage("stage"), clear_task_errors():
            pairs = _stage_pairs(source, folder=f"{staging}/pairs")
            candidates = candidate_rows(source, mine=mine, evaluate=evaluate)
            suite = _suite(lake, pairs, candidates, settings, version=run.source_version)
        with run.stage("embed candidates"):
            suite.embed(model)
        vectors = suite.vectors(model)
        counts = _count_candidates(vectors)
        with run.stage("embed queries"):
            queries, how = _queries(pairs, mine), suite.embed_spec(model)
            asked = embed_queries(run, queries, how, folder=f"{staging}/queries")
        with run.stage("search"), clear_task_errors():
            if mine.choose == "nearest":
                found = nearest(suite, asked, model, depth=mine.depth)
            else:
                found = at_random(asked, vectors, depth=mine.depth, seed=mine.seed)
            found.write.parquet(f"{staging}/found")
            found = lake.spark.read.parquet(f"{staging}/found")
        with run.stage("choose"):
            spec = NegativesSpec(mine.k, mine.skip, mine.highest, mine.own_picture)
            scores = _scores(pairs, asked, vectors)
            chosen = chosen_negatives(pairs, found, scores, spec=spec, folder=f"{staging}/chosen")
            counts |= count_outcomes(chosen)
        with run.stage("write"), clear_task_errors():
            made = with_negatives(pairs, chosen, candidates)
            writer = made.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
            writer.save(output) if is_path(output) else writer.saveAsTable(table_sql(output))
    run.counts.update(counts)
    run.tags["output"] = output
    return MineReport(output, counts)


def _stage_pairs(source: DataFrame, *, folder: str) -> DataFrame:
    """The pairs, numbered by `pair`, written once."""
    numbered = source.withColumn("pair", F.monotonically_increasing_id())
    numbered.write.parquet(folder)
    return source.sparkSession.read.parquet(folder)


def _suite(
    lake: Lake,
    pairs: DataFrame,
    candidates: DataFrame,
    settings: Settings,
    *,
    version: int | None,
) -> Suite:
    """The candidates as the one corpus of a suite, staged."""
    mine, evaluate = settings.mine, settings.evaluate
    documents = locate_images(candidates, image_base=mine.image_base).withColumnRenamed("key", "id")
    data = TaskData(
        documents,
        _queries(pairs, mine),
        pairs.selectExpr("query_id", "positive_key AS id", "1 AS score"),
    )
    tasks = (mine.tasks, mine.corpus, evaluate.data, evaluate.only)
    key = ("mine", mine.pairs, mine.image_base, *tasks)
    suite = Suite.open(lake, [Searched("mine", key, data, version)], settings)
    suite.stage()
    return suite


def _queries(pairs: DataFrame, settings: MineSettings) -> DataFrame:
    """Every query once, with the columns that a search takes."""
    sides = ("text", "image", "image_uri")
    rows = pairs.dropDuplicates(["query_id"]).selectExpr(
        "query_id",
        *(f"query_{name} AS {name}" for name in sides),
        "instruction",
        f"{literal(settings.depth)} AS k",
    )
    return locate_images(rows, image_base=settings.image_base)


def _scores(pairs: DataFrame, asked: DataFrame, vectors: DataFrame) -> DataFrame:
    """(pair, status, positive_score): inner product of the pair's own vectors; null where one is missing."""
    queries = asked.selectExpr("query_id", "status AS query_status", "embedding AS query")
    positives = vectors.selectExpr("id AS positive_key", "status AS positive_status", "embedding")
    rows = pairs.select("pair", "query_id", "positive_key")
    rows = rows.join(queries, "query_id", "left").join(positives, "positive_key", "left")
    status = (
        F.when(~F.col("query_status").eqNullSafe("ok"), "query_rejected")
        .when(~F.col("positive_status").eqNullSafe("ok"), "positive_rejected")
        .otherwise("ok")
    )
    product = (
        "aggregate(zip_with(query, embedding, (x, y) -> double(x) * y), 0D, (sum, z) -> sum + z)"
    )
    return rows.select("pair", status.alias("status"), F.expr(product).alias("positive_score"))


def _count_candidates(vectors: DataFrame) -> dict[str, int]:
    bad = F.count_if(F.col("status") != "ok")
    row = vectors.agg(
        F.count(F.lit(1)).alias("candidates"), bad.alias("rejected_candidates")
    ).first()
    counts = {name: int(count) for name, count in row.asDict().items()} if row else {}
    if counts.get("candidates") == counts.get("rejected_candidates"):
        raise LakeError(
            f"none of {counts['candidates']:,} candidates can be embedded, so there is nothing to search; look at "
            "mine.image_base and at the pictures of mine.pairs"
        )
    return counts


def _check_output(spark: SparkSession, settings: MineSettings) -> str:
    """`mine.output`; a table that holds something else than pairs is not replaced, nor the one that is read."""
    if not settings.output:
        raise SettingsError("mine.output is not set: give the Delta table (name or path) to write")
    output, pairs = (
        table_given(table) if table else "" for table in (settings.output, settings.pairs)
    )
    if output == pairs:
        raise SettingsError(
            f"mine.output={output} is mine.pairs, which stays as it is: give another table"
        )
    by_path = is_path(output)
    exists = (
        DeltaTable.isDeltaTable(spark, output)
        if by_path
        else spark.catalog.tableExists(table_sql(output))
    )
    missing = set(COLUMNS) - set(read_table(spark, output).columns) if exists else set()
    if missing:
        raise LakeError(
            f"mine.output={output} exists and is no table of pairs (it has no column {', '.join(sorted(missing))}); "
            "it was not replaced: give another name"
        )
    return output
