"""What the registered embedder is asked: nearest rows through an index of ours, and how well a picture fits its caption."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.reading import read_spec
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.lake.sql import literal
from jobs.settings.embed import REJECTED
from jobs.settings.settings import Settings
from jobs.stages.embed.run_model import embed_rows
from jobs.stages.evaluate.data.corpora import Searched, Suite
from jobs.stages.evaluate.data.tasks import TaskData
from jobs.stages.mine.candidates import nearest
from jobs.stages.search.job import embed_queries
from udfs.embed.batches import EMBED_INPUT

_KINDS = {"image": "binary", "is_query": "boolean"}
_DOT = "aggregate(zip_with(one, other, (x, y) -> double(x) * y), 0D, (sum, z) -> sum + z)"


@dataclass(frozen=True)
class Embedder:
    """The registered model, and the settings that it embeds by. Documents are embedded once a content and kept."""

    lake: Lake
    run: Run
    model: ResolvedModel
    settings: Settings
    staging: str

    def search(
        self, documents: DataFrame, queries: DataFrame, *, name: str, table: str, depth: int
    ) -> DataFrame:
        """(query_id, rank, key, score) of the `depth` best documents of each query.

        `documents`: id, text, image, image_uri. `queries`: query_id, text, image_uri, instruction. `table`: where the
        pictures of both come from.
        """
        folder = f"{self.staging}/{name}"
        asked = queries.withColumns(
            {"image": F.lit(None).cast("binary"), "k": F.expr(literal(depth))}
        ).select("query_id", "text", "image", "image_uri", "instruction", "k")
        none = asked.selectExpr("query_id", "'' AS id", "1 AS score").limit(0)
        data = TaskData(documents, asked, none)
        suite = Suite.open(
            self.lake,
            [Searched(name, ("synthesize", name, table), data)],
            self._suite_settings(),
            tables=[table, self.lake.root],
        )
        with clear_task_errors():
            suite.stage()
        suite.embed(self.model)
        embedded = embed_queries(
            self.run, asked, suite.embed_spec(self.model), folder=f"{folder}/queries"
        )
        with clear_task_errors():
            found = nearest(suite, embedded, self.model, depth=depth)
            found.write.mode("overwrite").parquet(f"{folder}/found")
        return self.lake.spark.read.parquet(f"{folder}/found")

    def _suite_settings(self) -> Settings:
        """What this run has made is all that is searched, whatever another one made and however much has no vector."""
        embed = self.settings.embed.model_copy(
            update={"max_deleted": 1.0, "max_rejected": {REJECTED: 1.0}}
        )
        return self.settings.model_copy(update={"embed": embed})

    def fit(self, rows: DataFrame, *, table: str) -> DataFrame:
        """(caption, image_uri, picture_score): the cosine of each picture and its caption, null where one has no vector."""
        with clear_task_errors():
            folder = f"{self.staging}/fit"
            rows.select("caption", "image_uri").distinct().write.mode("overwrite").parquet(folder)
        pairs = self.lake.spark.read.parquet(folder)
        one = self._embed(pairs, "caption", "text", table=table).toDF("caption", "one")
        other = self._embed(pairs, "image_uri", "image_uri", table=table)
        other = other.toDF("image_uri", "other")
        both = pairs.join(one, "caption", "left").join(other, "image_uri", "left")
        return both.select("caption", "image_uri", F.expr(_DOT).alias("picture_score"))

    def _embed(self, rows: DataFrame, key: str, side: str, *, table: str) -> DataFrame:
        """(key, embedding) of each content of a column, as documents."""
        settings = self.settings
        reading = read_spec(
            self.lake.spark,
            settings.source,
            table,
            max_bytes=settings.embed.max_image_bytes,
            folders=[self.lake.root],
        )
        spec = settings.embed.spec(self.model.spec, settings.serving.spec(), reading)
        given = {"key": F.col(key), side: F.col(key), "is_query": F.lit(False)}
        inputs = rows.select(key).distinct()
        columns = (
            given.get(name, F.lit(None)).cast(_KINDS.get(name, "string")).alias(name)
            for name in EMBED_INPUT.names
        )
        folder = f"{self.staging}/fit-{key}"
        made = embed_rows(self.run, inputs.select(*columns), spec=spec, folder=folder)
        return made.select("key", "embedding")
