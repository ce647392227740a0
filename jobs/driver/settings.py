"""Typed settings: YAML files, then environment, then `--set a.b=c`; the only reader of YAML and environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from udfs.errors import SettingsError
from udfs.specs import GME, REFERENCE, Dtype, ModelProfile, ServingSpec

ENV_PREFIX = "GME_LAKE_"


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
        description="template of the text; {column} stands for a column, nulls are empty, ends are trimmed",
    )
    image: str | None = Field(
        "image", description="column with image bytes, or a path/URI; null: no pictures"
    )
    image_base: str | None = Field(
        None, description="folder (path or URI) that relative image paths start from"
    )
    recheck_files: bool = Field(
        False,
        description="image paths: look again at every file even where the table has not changed",
    )


class ModelSettings(Section):
    """Which registered model makes vectors, and how a checkpoint is registered."""

    name: str = Field("gme", description="name in the model registry")
    alias: str = Field("champion", description="alias resolved when a job starts")
    version: int | None = Field(None, description="fixed version instead of the alias")
    checkpoint: str = Field("", description="register-model: checkpoint folder, or a cached hub id")
    profile: str = Field("gme", description="register-model: profile name from conf/models.yaml")
    dtype: Dtype = Field("float32", description="register-model: dtype of the weights when loaded")


class EmbedSettings(Section):
    """How the source is read and vectors are written."""

    files_per_batch: int = Field(64, ge=1, description="source files of one micro-batch, at most")
    bytes_per_batch: str = Field("1g", description="source bytes of one micro-batch, about")
    write_back: Literal["view", "columns", "none"] = Field(
        "view", description="view: <source>_with_vectors; columns: MERGE into the source table"
    )
    vector_column: str = Field("embedding", description="write_back columns: the vector column")
    model_column: str = Field(
        "embedding_model", description="write_back columns: the model_id column"
    )
    max_image_bytes: int = Field(67_108_864, description="larger image files are rejected unread")
    rescan: bool = Field(
        False, description="look at every row again and retry those rejected before"
    )


class ServingSettings(Section):
    """One model per executor and GPU."""

    placement: Literal["server", "worker"] = Field(
        ServingSpec.placement, description="server: one process per GPU; worker: in each worker"
    )
    device: str = Field(ServingSpec.device, description="auto, cpu, cuda or cuda:N")
    threads: int = Field(ServingSpec.threads, description="CPU threads of the model; 0: all cores")
    token_budget: int = Field(
        ServingSpec.token_budget, description="padded tokens of one model batch"
    )
    patch_budget: int = Field(
        ServingSpec.patch_budget, description="image patches of one model batch"
    )
    queue_bytes: int = Field(ServingSpec.queue_bytes, description="rows waiting in a server")
    idle_seconds: float = Field(
        ServingSpec.idle_seconds, description="a server without clients exits after this"
    )
    start_timeout_seconds: float = Field(
        ServingSpec.start_timeout_seconds, description="longest wait for a model to load"
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


class SearchSettings(Section):
    """Batch searches and the search command."""

    queries: str = Field("", description="query table: Delta name or path, or .parquet/.jsonl")
    output: str = Field("", description="Delta table (name or path) of results; replaced")
    k: int = Field(10, ge=1, description="results per query where the query row has no k")
    nprobe: int | None = Field(None, ge=1, description="lists looked at; null: the index's own")
    k_factor: int | None = Field(None, ge=1, description="candidates re-ranked per result")
    freshness: Literal["complete", "indexed_only"] = Field(
        "complete",
        description="complete: rows embedded since the index was built are searched too; indexed_only: they are not",
    )
    image_base: str | None = Field(
        None, description="folder (path or URI) that relative image paths of queries start from"
    )
    report: str | None = Field(None, description="HTML page with thumbnails to write")


class SparkSettings(Section):
    """The local session. A session that spark-submit or a notebook started is used as it is."""

    master: str = Field("local[*,4]", description="local sessions only")
    driver_memory: str = Field("4g", description="local sessions only")
    conf: dict[str, str] = Field(
        default_factory=dict, description="further Spark settings, as spark.conf.a.b=c"
    )


class MlflowSettings(Section):
    """Where runs and model versions are kept."""

    tracking_uri: str | None = Field(
        None, description="null: MLFLOW_TRACKING_URI, else sqlite beside the lake"
    )
    experiment: str = Field("gme-lake", description="experiment of the job runs")


class DrawSettings(Section):
    """The drawn demo catalogue."""

    rows: int = Field(2400, ge=1, description="rows to draw")
    files: int = Field(6, ge=1, description="files of the Delta table")
    seed: int = Field(0, description="seed of the pictures")


class Settings(BaseSettings):
    """Everything a job can be told."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    lake: LakeSettings = LakeSettings()
    source: SourceSettings = SourceSettings()
    model: ModelSettings = ModelSettings()
    embed: EmbedSettings = EmbedSettings()
    serving: ServingSettings = ServingSettings()
    index: IndexSettings = IndexSettings()
    search: SearchSettings = SearchSettings()
    spark: SparkSettings = SparkSettings()
    mlflow: MlflowSettings = MlflowSettings()
    draw: DrawSettings = DrawSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` hands over: it has already merged files, environment and --set."""
        return (init_settings,)


def load_settings(
    *, files: Iterable[str] = (), sets: Iterable[str] = (), env: Mapping[str, str] | None = None
) -> Settings:
    """Settings from YAML files, `GME_LAKE_SECTION__KEY` variables and `a.b=c` strings, later ones first.

    Raises SettingsError that names the unknown key and the nearest known one, or the value that does not fit.
    """
    merged: dict[str, Any] = {}
    for file in files:
        _merge(merged, _read_yaml(file))
    for name, value in (os.environ if env is None else env).items():
        if name.startswith(ENV_PREFIX):
            path = name.removeprefix(ENV_PREFIX).lower().split("__")
            _put(merged, path, value, where=f"environment variable {name}")
    for item in sets:
        key, sign, value = item.partition("=")
        if not sign:
            raise SettingsError(f"--set {item}: expected section.key=value")
        _put(merged, key.strip().split("."), value, where=f"--set {item}")
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def profile_named(name: str) -> ModelProfile:
    """The model profile `name`: `gme`, `reference`, or an entry of conf/models.yaml."""
    known = {"gme": GME, "reference": REFERENCE} | _published_profiles()
    if name not in known:
        raise SettingsError(
            f"model.profile={name}: no such profile{_nearest(name, known)}; known: {', '.join(sorted(known))}"
        )
    return known[name]


def conf_text(name: str) -> str:
    """Text of a file of `conf/`: from the wheel, a --py-files zip, or the checkout."""
    return _conf(name).read_text("utf-8")


def conf_names(folder: str) -> list[str]:
    """Names of the files in a folder of `conf/`, sorted."""
    return sorted(item.name for item in _conf(folder).iterdir())


def conf_file(name: str) -> AbstractContextManager[Path]:
    """A file of `conf/` as a path that lasts as long as the context: a copy where it lies in a zip."""
    return resources.as_file(_conf(name))


def tracking_uri_from_environment() -> str | None:
    """MLFLOW_TRACKING_URI, or `databricks` inside a Databricks runtime."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return "databricks" if "DATABRICKS_RUNTIME_VERSION" in os.environ else None


def session_is_given() -> bool:
    """Whether spark-submit or a platform has started the JVM, so that its session is to be used as it is."""
    return "PYSPARK_GATEWAY_PORT" in os.environ or "DATABRICKS_RUNTIME_VERSION" in os.environ


def prepare_environment(values: Mapping[str, str]) -> None:
    """Set variables that libraries read at start, where the user has not set them."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _conf(name: str) -> Traversable:
    packaged = resources.files("jobs") / "conf"
    checkout = Path(__file__).resolve().parents[2] / "conf"
    folder: Traversable = packaged if packaged.is_dir() else checkout
    return folder.joinpath(*name.split("/"))


def _published_profiles() -> dict[str, ModelProfile]:
    entries = yaml.safe_load(conf_text("models.yaml"))["profiles"]
    return {name: ModelProfile(name=name, **fields) for name, fields in entries.items()}


def _read_yaml(file: str) -> dict[str, Any]:
    path = Path(file)
    try:
        text = path.read_text("utf-8") if path.exists() else conf_text(file)
    except OSError:
        raise SettingsError(
            f"--config {file}: no such file, and none of that name in conf/"
        ) from None
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"--config {file}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"--config {file}: expected sections with keys, found {content!r:.60}")
    return content


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _put(into: dict[str, Any], path: Sequence[str], value: str, *, where: str) -> None:
    if path[:2] == ["spark", "conf"] and len(path) > 2:
        into.setdefault("spark", {}).setdefault("conf", {})[".".join(path[2:])] = value
        return
    if len(path) != 2:
        raise SettingsError(f"{where}: expected section.key, found {'.'.join(path)}")
    section, key = path
    holder = into.setdefault(section, {})
    if not isinstance(holder, dict):
        raise SettingsError(f"{where}: {section} is a section, found {holder!r:.60}")
    holder[key] = None if value in {"null", "None"} else value


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        loc = [str(part) for part in item["loc"]]
        name = ".".join(loc)
        if item["type"] == "extra_forbidden":
            known = _known_keys(loc[:-1])
            lines.append(f"unknown setting {name}{_nearest(loc[-1], known)}")
        else:
            lines.append(f"setting {name}={item['input']!r:.80}: {item['msg']}")
    return "; ".join(lines)


def _known_keys(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        model = type(model.model_fields[part].default)
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
