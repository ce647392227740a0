"""Settings of embed-table and register-model: the source, the model, how it is served, how vectors are written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jobs.settings.section import Names, Section, split_list
from udfs.specs import Dtype, EmbedSpec, ModelSpec, ReadSpec, ServingSpec


class SourceSettings(Section):
    """The image-text table to embed."""

    table: str = Field("", description="name or path of the source Delta table")
    id: str = Field("id", description="column with the row id")
    text: str = Field(
        "{title} {description}",
        description="template of the text; {column} stands for a column, nulls are empty, ends are trimmed; empty: no "
        "texts",
    )
    image: str | None = Field(
        "image", description="column with image bytes, or a path/URI; null: no pictures"
    )
    image_uri: str | None = Field(
        None,
        description="further column with a path/URI, for rows whose image column (bytes) is null",
    )
    image_base: str | None = Field(
        None, description="folder (path or URI) that relative image paths start from"
    )
    recheck_files: bool = Field(
        False,
        description="image paths: look again at every file even where the table has not changed",
    )
    schemes: Names | None = Field(
        None,
        description="kinds of places that image paths may name, e.g. s3,https (file: local paths; dbfs: Databricks' "
        "volumes); null: those of the table and of roots, https and data, but not http",
    )
    roots: Names = Field(
        default_factory=list,
        description="folders (paths or URIs) that image paths must lie under, links resolved; none: anywhere",
    )
    connect_seconds: float = Field(
        ReadSpec.connect_seconds, gt=0, description="web pictures: longest wait for a server"
    )
    first_byte_seconds: float = Field(
        ReadSpec.first_byte_seconds, gt=0, description="web pictures: longest wait for a byte"
    )
    file_seconds: float = Field(
        ReadSpec.file_seconds, gt=0, description="web pictures: longest for one, tries included"
    )
    tries: int = Field(
        ReadSpec.tries, ge=1, description="web pictures: tries where a server is silent or busy"
    )
    threads: int = Field(ReadSpec.threads, ge=1, description="files that one task reads at a time")


class ModelSettings(Section):
    """Which registered model makes vectors, and how a checkpoint is registered."""

    name: str = Field("gme", description="name in the model registry")
    alias: str = Field("champion", description="alias resolved when a job starts")
    version: int | None = Field(None, ge=1, description="fixed version instead of the alias")
    checkpoint: str = Field("", description="register-model: checkpoint folder, or a cached hub id")
    profile: str = Field("gme", description="register-model: profile name from conf/models.yaml")
    dtype: Dtype = Field("float32", description="register-model: dtype of the weights when loaded")
    trial: bool = Field(
        True,
        description="register-model, train-embedder: embed the canaries first, which loads the model on this machine; "
        "false where its memory is too small for it: then no load of the model is checked by them",
    )
    canary_cosine: float = Field(
        0.9995,
        ge=-1,
        le=1,
        description="lowest cosine of a loaded model's vectors with those of its registration's canaries; one below it "
        "ends the run",
    )


REJECTED = "rejected"  # every status but ok
_MAX_REJECTED = {REJECTED: 0.05}


def split_shares(value: Any) -> Any:
    """`0.05,image_missing=0.3` as a share of all rejected rows and of one status; a number is that of all."""
    if isinstance(value, str):
        pairs = [part.rpartition("=") for part in split_list(value)]
        value = {name.strip() or REJECTED: share.strip() for name, _, share in pairs}
    return _MAX_REJECTED | value if isinstance(value, dict) else {REJECTED: value}


Shares = Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], BeforeValidator(split_shares)]


class EmbedSettings(Section):
    """How the source is read and vectors are written."""

    files_per_batch: int = Field(64, ge=1, description="source files of one micro-batch, at most")
    bytes_per_batch: str = Field(
        "1g", pattern=r"^[1-9]\d*[bkmgt]?$", description="source bytes of one micro-batch, about"
    )
    write_back: Literal["view", "columns", "none"] = Field(
        "view", description="view: <source>_with_vectors; columns: MERGE into the source table"
    )
    vector_column: str = Field("embedding", description="write_back: name of the vector's column")
    model_column: str = Field(
        "embedding_model", description="write_back: name of the model_id's column"
    )
    max_image_bytes: int = Field(
        67_108_864, ge=1, description="larger image files are rejected unread"
    )
    max_task_seconds_per_row: float | None = Field(
        600.0,
        gt=0,
        description="a row that takes longer to read and prepare ends its worker, and is rejected (too_slow) at the "
        "task's next attempt; null: no limit",
    )
    rescan: bool = Field(
        False, description="look at every row again and retry those rejected before"
    )
    max_deleted: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the vector rows that a run may delete because their ids are gone from the source",
    )
    max_rejected: Shares = Field(
        _MAX_REJECTED,
        description="share of rejected rows that a run may have; fewer than 100 rows always may. 0.05,image_missing=0.3: "
        "a status with a share of its own counts by that alone",
    )
    where: str | None = Field(
        None,
        description="SQL predicate on the source's columns: only rows of which it is true are looked at, the others keep "
        "the vectors that they have; null: all rows",
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="rows that one run gives to the model, at most; the next run goes on from there; null: all",
    )
    first: str | None = Field(
        None,
        description="limit: column that says which rows come first, smallest first, or `column DESC`; null: by id",
    )
    retry: Names = Field(
        default_factory=list,
        description="look only at rows that were rejected with these statuses, and try them again; rejected: with any",
    )
    claim_seconds: float = Field(
        300,
        gt=0,
        description="silence after which a run on another machine is taken for dead",
    )
    replace_source: bool = Field(
        False, description="take another source table's place: ids it lacks lose their vectors"
    )

    def spec(self, model: ModelSpec, serving: ServingSpec, reading: ReadSpec) -> EmbedSpec:
        """What tasks that embed rows are told; the files that they leave are the caller's."""
        return EmbedSpec(model, serving, reading, max_row_seconds=self.max_task_seconds_per_row)


class ServingSettings(Section):
    """One model per executor and GPU."""

    placement: Literal["server", "worker"] = Field(
        ServingSpec.placement, description="server: one process per GPU; worker: in each worker"
    )
    device: str = Field(ServingSpec.device, description="auto, cpu, cuda or cuda:N")
    threads: int = Field(
        ServingSpec.threads, ge=0, description="CPU threads of the model; 0: all cores"
    )
    token_budget: int = Field(
        ServingSpec.token_budget, ge=1, description="tokens of one model batch"
    )
    patch_budget: int = Field(
        ServingSpec.patch_budget, ge=1, description="image patches of one model batch"
    )
    queue_bytes: int = Field(ServingSpec.queue_bytes, ge=1, description="rows waiting in a server")
    idle_seconds: float = Field(
        ServingSpec.idle_seconds, gt=0, description="a server without clients exits after this"
    )
    start_timeout_seconds: float = Field(
        ServingSpec.start_timeout_seconds, gt=0, description="longest wait for a model to load"
    )
    frame_timeout_seconds: float = Field(
        ServingSpec.frame_timeout_seconds,
        gt=0,
        description="a worker that stops in the middle of a request loses its connection after this",
    )
    answer_timeout_seconds: float = Field(
        ServingSpec.answer_timeout_seconds,
        gt=0,
        description="a worker that does not take an answer loses its connection after this",
    )

    def spec(self) -> ServingSpec:
        """The same values as they cross the wire."""
        return ServingSpec(**self.model_dump())
