"""Everything a job can be told: one frozen section of settings per concern, unknown keys are errors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from jobs.driver.ablate_section import AblateSettings
from jobs.driver.evaluate_section import EvaluateSettings, Names
from jobs.driver.mine_section import MineSettings
from jobs.driver.recall_section import RecallSettings, TuneSettings
from jobs.driver.train_section import TrainSettings
from udfs.specs import MAX_K, Dtype, ReadSpec, ServingSpec


class Section(BaseModel):
    """A group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LakeSettings(Section):
    """Where the product's own tables and files live."""

    root: str = Field(
        "gme-lake", description="folder (path or URI) of tables, index files, stream checkpoints"
    )
    schema_: str = Field(
        "gme", alias="schema", description="schema of all tables, e.g. gme or main.gme"
    )
    managed: bool = Field(
        False, description="true: the catalog decides where tables lie; false: under root/tables"
    )


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
        "volumes); null: those of the table and of roots, https and data",
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
        description="register-model: embed one row first, which loads the model on this machine; false where its "
        "memory is too small for it",
    )


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
    max_rejected: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of rejected rows that a run may have; fewer than 100 rows always may",
    )
    claim_seconds: float = Field(
        300,
        gt=0,
        description="silence after which a run on another machine is taken for dead",
    )
    replace_source: bool = Field(
        False, description="take another source table's place: ids it lacks lose their vectors"
    )


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
        ServingSpec.token_budget, ge=1, description="padded tokens of one model batch"
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


class IndexSettings(Section):
    """Shape of the index; what is not set follows from the number of rows."""

    factory: str | None = Field(
        None, description="faiss factory string, {nlist} allowed; null: by rule"
    )
    nlist: int | None = Field(None, ge=1, description="inverted lists; null: by rule")
    shards: int | None = Field(None, ge=1, description="shards; null: one per 25 million rows")
    train_rows: int | None = Field(None, ge=1, description="training sample; null: 64 per list")
    refine: Literal["fp16", "none"] | None = Field(
        None, description="fp16: vectors kept for exact re-ranking; none; null: by rule"
    )
    nprobe: int | None = Field(None, ge=1, description="lists looked at by default; null: by rule")
    k_factor: int | None = Field(None, ge=1, description="candidates re-ranked per result")
    seed: int = Field(0, description="seed of sample and training")
    extend: bool = Field(
        True,
        description="add what is new to the last whole index while that is up to 20 %; false: always build whole",
    )


class SearchSettings(Section):
    """Batch searches and the search command."""

    queries: str = Field("", description="query table: Delta name or path, or .parquet/.jsonl")
    output: str = Field("", description="Delta table (name or path) of results; replaced")
    k: int = Field(10, ge=1, le=MAX_K, description="results per query where the query row has no k")
    filter: str | None = Field(
        None,
        description="SQL predicate over the source table; only rows that it holds for are found, all k of them: "
        "category = 'shoes' AND price < 50",
    )
    min_score: float | None = Field(
        None, ge=-1, le=1, description="lowest inner product of a result; k bounds their number"
    )
    group_by: str | None = Field(
        None,
        description="column of the source table of which results share a value at most max_per",
    )
    max_per: int = Field(1, ge=1, description="results of one value of group_by, at most")
    nprobe: int | None = Field(None, ge=1, description="lists looked at; null: the index's own")
    k_factor: int | None = Field(None, ge=1, description="candidates re-ranked per result")
    recall: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="instead of both: the operating point that tune-index stored for this recall at search.k",
    )
    freshness: Literal["complete", "indexed_only"] = Field(
        "complete",
        description="complete: rows embedded since the index was built are searched too; indexed_only: they are not",
    )
    scatter: Literal["auto"] | bool = Field(
        "auto",
        description="true: each shard is searched in tasks of its own; false: every task opens them all; auto: as "
        "many together as executor_bytes allow",
    )
    executor_bytes: int = Field(
        34_359_738_368, ge=1, description="files of an index that one task may open"
    )
    image_base: str | None = Field(
        None, description="folder (path or URI) that relative image paths of queries start from"
    )
    report: str | None = Field(None, description="HTML page with thumbnails to write")


class ReleaseSettings(Section):
    """How old an index may be that is released."""

    max_missing: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the model's rows in `vectors` that the index may lack; 1: any index may be released",
    )
    max_gone: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the index's rows that `vectors` may no longer have; 1: any index may be released",
    )


class SparkSettings(Section):
    """The local session. A session that spark-submit or a notebook started is used as it is."""

    master: str = Field("local[*,4]", description="local sessions only")
    driver_memory: str = Field("4g", description="local sessions only")
    conf: dict[str, str] = Field(
        default_factory=dict, description="further Spark settings, as spark.conf.a.b=c"
    )

    @field_validator("conf", mode="before")
    @classmethod
    def _as_spark_writes(cls, conf: Any) -> Any:
        """YAML's true and 8 as Spark's "true" and "8"."""
        if not isinstance(conf, dict):
            return conf
        scalar = bool | int | float
        return {
            k: str(v).lower() if isinstance(v, bool) else str(v) if isinstance(v, scalar) else v
            for k, v in conf.items()
        }


class MlflowSettings(Section):
    """Where runs and model versions are kept."""

    tracking_uri: str | None = Field(
        None, description="null: MLFLOW_TRACKING_URI, else sqlite beside the lake"
    )
    experiment: str = Field("gme-lake", description="experiment of the job runs")


class DrawSettings(Section):
    """The drawn demo catalogue, and training pairs of it."""

    rows: int = Field(2400, ge=1, description="rows (or pairs) to draw")
    files: int = Field(6, ge=1, description="files of the Delta table")
    seed: int = Field(0, description="seed of the pictures")


class Settings(Section):
    """Everything a job can be told."""

    lake: LakeSettings = LakeSettings()
    source: SourceSettings = SourceSettings()
    model: ModelSettings = ModelSettings()
    embed: EmbedSettings = EmbedSettings()
    serving: ServingSettings = ServingSettings()
    index: IndexSettings = IndexSettings()
    search: SearchSettings = SearchSettings()
    release: ReleaseSettings = ReleaseSettings()
    spark: SparkSettings = SparkSettings()
    mlflow: MlflowSettings = MlflowSettings()
    draw: DrawSettings = DrawSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    mine: MineSettings = MineSettings()
    ablate: AblateSettings = AblateSettings()
    recall: RecallSettings = RecallSettings()
    tune: TuneSettings = TuneSettings()
