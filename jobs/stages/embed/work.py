"""What every step of one embed_table run shares, and the model's vector rows as they compare contents with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.progress import RowProgress
from jobs.lake.claims import Claim
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.settings.embed import EmbedSettings
from jobs.stages.embed.source import Source
from udfs.specs import EmbedSpec


@dataclass(frozen=True)
class Embedding:
    """What every micro-batch of a run shares. `staging` is a folder for its intermediate files.

    `selected` are the ids (id) that it looks at, None for all; `superseded` those (id, last) that several commits of its
    window change, None for none; `rejected` its rejected rows so far, by status.
    """

    lake: Lake
    run: Run
    source: Source
    settings: EmbedSettings
    spec: EmbedSpec
    staging: str
    claim: Claim
    progress: RowProgress | None = None
    selected: DataFrame | None = None
    superseded: DataFrame | None = None
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def model_id(self) -> str:
        """Model of the vectors that this run writes."""
        return self.spec.model.model_id

    @property
    def tries_again(self) -> bool:
        """Whether rows that were rejected before are given to the model again."""
        return self.settings.rescan or bool(self.source.selection.retry)


def read_stored(job: Embedding, *, version: int) -> DataFrame:
    """(id, stored_hash, replaced_id) of the model's vector rows, to be compared; rows to be tried again equal nothing."""
    stored_hash = F.col("content_hash")
    if job.tries_again:
        stored_hash = F.when(F.col("status") == "ok", stored_hash).otherwise("")
    return read_contents(job, version=version).select(
        "id", stored_hash.alias("stored_hash"), F.col("vector_id").alias("replaced_id")
    )


def read_contents(job: Embedding, *, version: int) -> DataFrame:
    """(id, content_hash, vector_id, status) of the model's vector rows, without the vectors."""
    vectors = job.lake.read("vectors", version=version).where(F.col("model_id") == job.model_id)
    return vectors.select("id", "content_hash", "vector_id", "status")
