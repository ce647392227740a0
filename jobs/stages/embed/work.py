"""What every step of one embed_table run shares, and the model's vector rows as they compare contents with them."""

from __future__ import annotations

from dataclasses import dataclass

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
    """What every micro-batch of a run shares. `staging` is a folder for its intermediate files."""

    lake: Lake
    run: Run
    source: Source
    settings: EmbedSettings
    spec: EmbedSpec
    staging: str
    claim: Claim
    progress: RowProgress | None = None

    @property
    def model_id(self) -> str:
        """Model of the vectors that this run writes."""
        return self.spec.model.model_id


def read_contents(job: Embedding, *, version: int) -> DataFrame:
    """(id, content_hash, vector_id, status) of the model's vector rows, without the vectors."""
    vectors = job.lake.read("vectors", version=version).where(F.col("model_id") == job.model_id)
    return vectors.select("id", "content_hash", "vector_id", "status")
