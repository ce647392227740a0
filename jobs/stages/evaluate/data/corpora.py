"""The documents of a set of tasks: staged once as one Delta table, embedded by embed_table, in a lake of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.reading import read_spec
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run, record_end
from jobs.lake.sql import identifier, literal, name_parts
from jobs.lake.tables import Table
from jobs.settings.embed import SourceSettings
from jobs.settings.lake import LakeSettings
from jobs.settings.settings import Settings
from jobs.stages.embed.job import EmbedReport, embed_table
from jobs.stages.evaluate.data.tasks import TaskData
from udfs import storage
from udfs.specs import EmbedSpec, ReadSpec

_READING = ("roots", "connect_seconds", "first_byte_seconds", "file_seconds", "tries", "threads")
STAGED = Table(
    "documents",
    "One row for each document of an evaluation's tasks.",
    (
        ("corpus", "!STRING", "the documents that tasks share, by a hash"),
        ("signature", "!STRING", "what they were read from, by a hash"),
        ("id", "!STRING", "unique over all corpora: corpus, a slash, the document's own id"),
        ("text", "STRING", "text of the document"),
        ("image", "BINARY", "bytes of its picture"),
        ("image_uri", "STRING", "file of its picture"),
    ),
    partitioned_by=("corpus", "signature"),
)


@dataclass(frozen=True)
class Searched:
    """Queries, the documents they search, and what is right. Those with equal `key` search the same documents.

    `version` tells what the files of a Delta table do not: a row that is deleted may stay in them.
    """

    name: str
    key: Any
    data: TaskData
    version: int | None = None

    @property
    def corpus(self) -> str:
        """Name of the documents."""
        return _digest(repr(self.key))


@dataclass(frozen=True)
class Suite:
    """The corpora of a set of tasks in a lake of their own, apart from the user's vectors.

    `settings` are the user's with that lake, and with the documents as the source table; `reading` is how pictures of
    documents and queries are read.
    """

    lake: Lake
    tasks: Sequence[Searched]
    settings: Settings
    reading: ReadSpec

    @classmethod
    def open(
        cls,
        lake: Lake,
        tasks: Sequence[Searched],
        settings: Settings,
        *,
        tables: Sequence[str] = (),
    ) -> Suite:
        """The suite under the lake's root that is named after its corpora; it is there again for the next model.

        `tables`: others (or folders) that rows may name pictures beside.
        """
        name = _digest(",".join(sorted({task.corpus for task in tasks})))
        parts = name_parts(lake.schema)
        own = LakeSettings(
            root=lake.folder("evaluation", name),
            schema=identifier(*parts[:-1], f"{parts[-1]}_evaluation_{name}"),
            managed=lake.managed,
        )
        opened = Lake(lake.spark, own)
        opened.open_table(STAGED)
        reading = read_spec(
            lake.spark,
            settings.source,
            settings.mine.pairs,
            *tables,
            max_bytes=settings.embed.max_image_bytes,
            folders=_folders(settings),
        )
        source = SourceSettings(
            table=opened.name(STAGED.name),
            text="{text}",
            image_uri="image_uri",
            schemes=list(reading.schemes or ()),
            **{name: getattr(settings.source, name) for name in _READING},
        )
        all_rows: dict[str, object] = {"rescan": False, "where": None, "limit": None, "retry": []}
        embed = settings.embed.model_copy(update={"write_back": "none"} | all_rows)
        changed = {"lake": own, "embed": embed, "source": source}
        return cls(opened, tasks, settings.model_copy(update=changed), reading)

    def stage(self) -> int:
        """Write the documents of corpora that are not staged yet, or whose files have changed; returns how many corpora."""
        wanted = {task.corpus: task.data.documents for task in self.tasks}
        signed = {task.corpus: _signature(task) for task in self.tasks}
        table = self.lake.name(STAGED.name)
        rows = self.lake.spark.table(table).select("corpus", "signature").distinct().collect()
        there = {(row.corpus, row.signature) for row in rows}
        stale = sorted(c for c, s in there if c in signed and signed[c] != s)
        if stale:
            known = " OR ".join(
                f"(corpus = {literal(c)} AND signature <> {literal(signed[c])})"
                for c in sorted(set(stale))
            )
            self.lake.spark.sql(f"DELETE FROM {table} WHERE {known}")
        missing = [corpus for corpus in wanted if (corpus, signed[corpus]) not in there]
        if missing:
            frames = [_stage(wanted[corpus], corpus, signed[corpus]) for corpus in missing]
            union = reduce(lambda one, other: one.unionByName(other), frames)
            union.write.format("delta").mode("append").saveAsTable(table)
        return len(missing)

    def documents(self) -> DataFrame:
        """The staged documents: corpus, id (corpus/id), text, image, image_uri."""
        return self.lake.spark.table(self.lake.name(STAGED.name)).drop("signature")

    def embed(self, model: ResolvedModel) -> EmbedReport:
        """Bring the model's vectors of all documents up to date; a model that has embedded them before does nothing."""
        settings = self.settings
        price = settings.plan.price_per_hour
        run = Run(self.lake, "embed_table", settings.to_json(), price_per_hour=price)
        with record_end(run):
            return embed_table(
                self.lake,
                run,
                model=model,
                source=settings.source,
                embed=settings.embed,
                serving=settings.serving.spec(),
            )

    def embed_spec(self, model: ResolvedModel) -> EmbedSpec:
        """How tasks embed queries of the suite."""
        settings = self.settings
        return settings.embed.spec(model.spec, settings.serving.spec(), self.reading)

    def vectors(self, model: ResolvedModel) -> DataFrame:
        """(corpus, vector_id, id, status, embedding) of the model's documents; `id` is the document's own."""
        rows = self.lake.read("vectors", version=self.lake.version("vectors"))
        rows = rows.where(F.col("model_id") == model.spec.model_id)
        return rows.select(
            F.substring_index("id", "/", 1).alias("corpus"),
            "vector_id",
            F.expr("substring(id, instr(id, '/') + 1)").alias("id"),
            "status",
            "embedding",
        )


def _folders(settings: Settings) -> list[str | None]:
    """Folders that the documents come from; their pictures may lie in the same kinds of storage."""
    mine, evaluate = settings.mine, settings.evaluate
    by_task = evaluate.tasks or mine.tasks or settings.train.tasks
    return [mine.image_base, evaluate.data if by_task else None]


def _stage(documents: DataFrame, corpus: str, signature: str) -> DataFrame:
    return documents.select(
        F.lit(corpus).alias("corpus"),
        F.lit(signature).alias("signature"),
        F.concat(F.lit(f"{corpus}/"), F.col("id")).alias("id"),
        *("text", "image", "image_uri"),
    )


def _signature(searched: Searched) -> str:
    """Names what the documents are made from: the files they are read from, else their first row."""
    documents = searched.data.documents
    files = sorted(documents.inputFiles())
    if files:
        return _digest(repr([searched.version, *((file, storage.stat(file)) for file in files)]))
    return _digest(repr(documents.head(1)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
