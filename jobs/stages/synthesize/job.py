"""synthesize_pairs from start to end: queries, entities, pictures, filters, and the pairs that are left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.driver.task_errors import clear_task_errors
from jobs.lake.claims import claim
from jobs.lake.lake import Lake, is_path, read_table, table_given
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.lake.sql import table_sql
from jobs.settings.settings import Settings
from jobs.settings.synthesize import SynthesizeSettings
from jobs.stages.mine.pairs import COLUMNS
from jobs.stages.synthesize.asking import Asking, Spent, pictures_folder
from jobs.stages.synthesize.embedder import Embedder
from jobs.stages.synthesize.filters import (
    drop_same_pictures,
    require_consistency,
    score_pictures,
)
from jobs.stages.synthesize.local import serve_models
from jobs.stages.synthesize.pairs import (
    INSTRUCTIONS,
    Parts,
    passage_pairs,
    sibling_pairs,
    with_keys,
    with_lineage,
)
from jobs.stages.synthesize.passages import Passages, read_passages, read_pictures
from jobs.stages.synthesize.pictures import draw_pictures, find_pictures
from jobs.stages.synthesize.rejects import Rejects
from jobs.stages.synthesize.siblings import siblings_by_attributes, siblings_by_model
from jobs.stages.synthesize.words import limit_domains, make_entities, make_queries
from udfs.errors import LakeError, SettingsError
from udfs.training.data import NOTES


@dataclass(frozen=True)
class SynthesisReport:
    """What a run came to: pairs by direction and domain, and rows left out by step and reason."""

    output: str
    counts: dict[str, int]
    pairs: list[dict[str, object]]
    rejects: list[dict[str, object]]
    spent: dict[str, Spent] = field(default_factory=dict)

    def __str__(self) -> str:
        by_direction: dict[str, int] = {}
        for row in self.pairs:
            name = str(row["direction"])
            by_direction[name] = by_direction.get(name, 0) + int(str(row["pairs"]))
        shown = ", ".join(f"{n:,} {name}" for name, n in sorted(by_direction.items())) or "none"
        lines = [f"{sum(by_direction.values()):,} pairs in {self.output}: {shown}"]
        totals: dict[str, int] = {}
        for row in self.rejects:
            name = f"{row['step']}/{row['reason']}"
            totals[name] = totals.get(name, 0) + int(str(row["rows"]))
        for name, count in sorted(totals.items(), key=lambda item: -item[1]):
            lines.append(f"  left out: {count:,} {name}")
        for step, spent in self.spent.items():
            lines.append(
                f"  asked: {spent.requests:,} {step}, {spent.tokens:,} tokens, cost {spent.cost:.4f}, "
                f"{spent.seconds:,.1f} s of the models"
            )
        if not self.spent:
            lines.append("  asked: nothing, all answers are kept from before")
        return "\n".join(lines)

    def values(self) -> dict[str, object]:
        """The same for programs."""
        spent = {step: vars(each) for step, each in self.spent.items()}
        return {**vars(self), "spent": spent}


def needs_embedder(settings: SynthesizeSettings) -> bool:
    """Whether a run asks the registered embedder."""
    return settings.picture != "none" or settings.consistent is not None


def synthesize_pairs(
    lake: Lake, run: Run, *, model: ResolvedModel | None, settings: Settings
) -> SynthesisReport:
    """Make pairs of `synthesize.passages` and replace `synthesize.output` with them, in one commit.

    A model is asked once for each request, whatever happens: answers are kept in the lake, and a run that was killed or
    has used up its budget is gone on with by the next one. What cannot be made of a passage is a row of
    `synthesis_rejects`. `model` is null where `needs_embedder` says so. Raises SettingsError, LakeError, BudgetError,
    ServingError, ActiveRunError.
    """
    output = check_settings(lake.spark, settings.synthesize)
    run.model = model
    with (
        claim(run, name=run.job, timeout=settings.embed.claim_seconds) as held,
        lake.staging(run.run_id) as staging,
        serve_models(settings.synthesize) as own,
    ):
        asking = Asking(lake, run, held, own, staging)
        embedder = None if model is None else Embedder(lake, run, model, settings, staging)
        rejects = Rejects(lake, run)
        pairs = _make(asking, rejects, embedder)
        with run.stage("write"), clear_task_errors():
            _write(lake, run, pairs, output)
            left_out = rejects.write(f"{staging}/rejects")
            report = _report(asking, lake, output, left_out)
    run.counts["pairs"] = report.counts["pairs"]
    run.tags["output"] = output
    return report


def _make(asking: Asking, rejects: Rejects, embedder: Embedder | None) -> DataFrame:
    """All pairs that pass the filters: rows of `with_keys` with picture_score and rank."""
    settings, run = asking.settings, asking.run
    with run.stage("passages"):
        passages = read_passages(asking.lake, run, settings, staging=asking.staging)
        run.counts["passages"] = passages.narrow.count()
    rows = passages.narrow
    if settings.domain:
        rows = limit_domains(rejects, rows, most=settings.per_domain, seed=settings.seed)
    found = []
    if settings.directions:
        texts, entities = make_texts(asking, rejects, rows)
        pictured = None
        if entities is not None and embedder is not None:
            with run.stage("pictures"):
                pictured = _pictures(asking, rejects, embedder, rows, entities)
        own = _own_pictures(asking, rejects, passages, texts.select("passage_id"), name="own")
        made = passage_pairs(
            Parts(texts, own, pictured), settings.directions, settings.instructions
        )
        if made is not None:
            found.append(made)
    for siblings in _siblings(asking, rejects, rows):
        shown = siblings.select("passage_id").union(siblings.select("target_id"))
        own = _own_pictures(asking, rejects, passages, shown, name=f"siblings-{len(found)}")
        found.append(sibling_pairs(siblings, own, settings.instructions))
    candidates = found[0]
    for other in found[1:]:
        candidates = candidates.unionByName(other)
    return _filter(asking, rejects, embedder, with_keys(candidates))


def make_texts(
    asking: Asking, rejects: Rejects, rows: DataFrame
) -> tuple[DataFrame, DataFrame | None]:
    """Steps 1 and 2: texts as `Parts` has them, and (passage_id, entity, domain, …) where fused pairs are asked for."""
    settings, run = asking.settings, asking.run
    with run.stage("queries"):
        queries = make_queries(asking, rejects, rows)
    texts = queries.join(rows.select("passage_id", "text", "domain"), "passage_id")
    fused = settings.picture != "none" and any(d.startswith("it") for d in settings.directions)
    if not fused and (settings.domain or settings.per_domain is None):
        return texts, None
    with run.stage("entities"):
        entities = make_entities(asking, rejects, rows, queries)
    texts = texts.join(entities, "passage_id", "left")
    if not settings.domain:
        texts = texts.withColumn("domain", F.col("named_domain"))
        texts = limit_domains(rejects, texts, most=settings.per_domain, seed=settings.seed)
    texts = texts.drop("named_domain")
    if not fused:
        return texts, None
    return texts, texts.where("entity IS NOT NULL").select("passage_id", "entity", "domain")


def _pictures(
    asking: Asking, rejects: Rejects, embedder: Embedder, rows: DataFrame, entities: DataFrame
) -> DataFrame:
    if asking.settings.picture == "generate":
        return draw_pictures(asking, rejects, rows, entities)
    pictures = read_pictures(asking.lake, asking.run, asking.settings)
    return find_pictures(asking, rejects, embedder, entities, pictures)


def _own_pictures(
    asking: Asking, rejects: Rejects, passages: Passages, wanted: DataFrame, *, name: str
) -> DataFrame:
    """(passage_id, own_image): the passages' own pictures, as files."""
    ids = wanted.select(F.col(wanted.columns[0]).alias("id"))
    folder, staging = pictures_folder(asking.lake), f"{asking.staging}/pictures-{name}"
    files = passages.pictures.files(ids, folder=folder, staging=staging)
    bad = files.where("error IS NOT NULL").withColumnsRenamed(
        {"id": "passage_id", "error": "detail"}
    )
    rejects.add("picture", bad.withColumn("reason", F.lit("bad_picture")))
    return files.select(F.col("id").alias("passage_id"), F.col("image_uri").alias("own_image"))


def _siblings(asking: Asking, rejects: Rejects, rows: DataFrame) -> list[DataFrame]:
    settings, made = asking.settings, []
    with asking.run.stage("siblings"):
        if settings.attributes:
            made.append(siblings_by_attributes(rows, settings))
        if settings.siblings:
            made.append(siblings_by_model(asking, rejects, rows))
    return made


def _filter(
    asking: Asking, rejects: Rejects, embedder: Embedder | None, pairs: DataFrame
) -> DataFrame:
    """The pairs that are left, staged; rank and picture_score are null where nothing asked for them."""
    settings, run = asking.settings, asking.run
    with run.stage("filter"), clear_task_errors():
        pairs.write.mode("overwrite").parquet(f"{asking.staging}/candidates")
        pairs = asking.lake.spark.read.parquet(f"{asking.staging}/candidates")
        run.counts["candidates"] = pairs.count()
        pairs = drop_same_pictures(rejects, pairs)
        if embedder is not None and not pairs.isEmpty() and settings.picture != "none":
            pairs = score_pictures(rejects, embedder, pairs, settings)
        else:
            pairs = pairs.withColumn("picture_score", F.lit(None).cast("double"))
        if embedder is None or settings.consistent is None or pairs.isEmpty():
            return pairs.withColumn("rank", F.lit(None).cast("int"))
        return require_consistency(rejects, embedder, pairs, settings)


def _write(lake: Lake, run: Run, pairs: DataFrame, output: str) -> None:
    made = with_lineage(lake, run, pairs)
    writer = made.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
    writer.save(output) if is_path(output) else writer.saveAsTable(table_sql(output))


def _report(asking: Asking, lake: Lake, output: str, left_out: DataFrame) -> SynthesisReport:
    pairs = read_table(lake.spark, output).groupBy("direction", "domain")
    made = [row.asDict() for row in pairs.agg(F.count(F.lit(1)).alias("pairs")).collect()]
    by = ("step", "reason", "direction", "domain")
    rejects = left_out.groupBy(*by).agg(F.count(F.lit(1)).alias("rows")).collect()
    for row in rejects:
        asking.run.counts[f"left_out_{row.reason}"] += int(row.rows)
    counts = {"pairs": sum(int(row["pairs"]) for row in made)}
    counts |= {name: int(n) for name, n in asking.run.counts.items() if name != "pairs"}
    return SynthesisReport(
        output,
        counts,
        sorted(made, key=lambda row: (row["direction"], str(row["domain"]))),
        [row.asDict() for row in sorted(rejects, key=lambda row: -int(row.rows))],
        {step: replace(spent) for step, spent in asking.spent.items()},
    )


def check_settings(spark: SparkSession, settings: SynthesizeSettings) -> str:
    """`synthesize.output` as it is written. Raises SettingsError or LakeError before anything is asked."""
    if unknown := sorted(set(settings.directions) - {"t2t", "t2it", "it2t", "it2it"}):
        raise SettingsError(
            f"synthesize.directions names {unknown}; passages give t2t, t2it, it2t and it2it, and it2i comes of "
            "synthesize.attributes or synthesize.siblings"
        )
    if unknown := sorted(set(settings.instructions) - set(INSTRUCTIONS)):
        raise SettingsError(
            f"synthesize.instructions names {unknown}; there are {list(INSTRUCTIONS)}"
        )
    if not (settings.directions or settings.attributes or settings.siblings):
        raise SettingsError(
            "nothing to make: set synthesize.directions, synthesize.attributes or synthesize.siblings"
        )
    fused = all(direction.startswith("it") for direction in settings.directions)
    if settings.directions and fused and settings.picture == "none":
        raise SettingsError(
            f"synthesize.directions={','.join(settings.directions)} need pictures of entities: set synthesize.picture to "
            "retrieve or generate"
        )
    if (settings.attributes or settings.siblings) and not settings.image:
        raise SettingsError("pairs of siblings are pairs of pictures: set synthesize.image")
    if not settings.output:
        raise SettingsError("synthesize.output is not set: give the Delta table to write")
    output = table_given(settings.output)
    if settings.passages and output == table_given(settings.passages):
        raise SettingsError(
            f"synthesize.output={output} is synthesize.passages, which stays as it is: give another table"
        )
    exists = (
        DeltaTable.isDeltaTable(spark, output)
        if is_path(output)
        else spark.catalog.tableExists(table_sql(output))
    )
    missing = {*COLUMNS, *NOTES} - set(read_table(spark, output).columns) if exists else set()
    if missing:
        raise LakeError(
            f"synthesize.output={output} exists and is no table of synthesised pairs (it has no column "
            f"{', '.join(sorted(missing))}); it was not replaced: give another name"
        )
    return output
