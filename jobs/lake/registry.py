"""MLflow, on the driver only: model versions by reference and their canaries, aliases resolved once, runs of jobs."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.lake.lake import absolute, is_path
from jobs.lake.mlflow_store import name_condition, one_at_a_time, require_catalog_name
from jobs.settings.embed import ModelSettings
from jobs.settings.load import prepare_environment, tracking_uri_from_environment
from jobs.settings.settings import Settings
from udfs import storage
from udfs.errors import RegistryError, ServingError
from udfs.gme.canaries.check import compare
from udfs.gme.canaries.record import Canaries, read_canaries, sha256_of
from udfs.gme.prepare import EncodedBatch
from udfs.specs import CanarySpec, ModelProfile, ModelSpec

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# Telemetry would open connections from a cluster that may have none; the git probe warns where git is absent; artifacts
# are small files, whose bars of progress say nothing.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_CANARIES_TAG = "canaries_sha256"
_CANARIES_FILE = "canaries.json"  # among the artifacts of a version, and in the lake by its sha-256

log = logging.getLogger("gme_lake")


@dataclass(frozen=True)
class ResolvedModel:
    """A registered model version, resolved once on the driver."""

    name: str
    version: str
    spec: ModelSpec


class Registry:
    """The model registry and run tracking of one lake."""

    def __init__(self, settings: Settings) -> None:
        prepare_environment(_QUIET)
        import mlflow

        self.settings = settings
        self._mlflow: Any = mlflow
        # Importing mlflow turns its logger to INFO; a path as data source makes it look for Databricks and say so.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.utils.databricks_utils").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        root = absolute(settings.lake.root)
        uri = settings.mlflow.tracking_uri or tracking_uri_from_environment()
        if uri is None and "://" in root:
            raise RegistryError(
                f"mlflow.tracking_uri is not set and the lake {root} is no local folder: set "
                "mlflow.tracking_uri (or MLFLOW_TRACKING_URI) to your MLflow server"
            )
        if uri is None:
            Path(root).mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{root}/mlflow.db"
            artifacts: str | None = f"{root}/mlruns"
        else:
            artifacts = None  # the server knows where
        mlflow.set_tracking_uri(uri)
        with self._alone():
            if artifacts is not None:
                self._own_experiment(settings.mlflow.experiment, artifacts)
            mlflow.set_experiment(settings.mlflow.experiment)

    def _alone(self) -> AbstractContextManager[None]:
        return one_at_a_time(self._mlflow.get_tracking_uri(), self._mlflow.get_registry_uri())

    def _own_experiment(self, name: str, artifacts: str) -> None:
        """The experiment of a lake with a store of its own, made where it is missing.

        MLflow keeps an absolute path of its artifacts. In a lake that was copied or moved that is another place's: new runs
        get an experiment that writes here, the old one keeps its runs under a name that says where they are.
        """
        found = self._mlflow.get_experiment_by_name(name)
        if found is not None:
            place = storage.local_path(found.artifact_location)
            if place is not None and place.resolve() == Path(artifacts).resolve():
                return
            old = f"{name} {found.experiment_id} (in {found.artifact_location})"
            self.client.rename_experiment(found.experiment_id, old)
        self._mlflow.create_experiment(name, artifacts)

    @property
    def client(self) -> MlflowClient:
        """The MLflow client of the tracking server in use."""
        return self._mlflow.MlflowClient()

    def resolve(self, model: ModelSettings | None = None) -> ResolvedModel:
        """The version that settings name, by version or alias: the registry's own, or other ones.

        Raises RegistryError with what exists.
        """
        model = model or self.settings.model
        try:
            if model.version is not None:
                found = self.client.get_model_version(model.name, str(model.version))
            else:
                found = self.client.get_model_version_by_alias(model.name, model.alias)
        except self._mlflow.exceptions.MlflowException as error:
            wanted = f"version {model.version}" if model.version else f"alias {model.alias}"
            raise RegistryError(
                f"model {model.name} has no {wanted} in {self._mlflow.get_tracking_uri()}: "
                f"{error.message.rstrip('.')}. Register one with: gme-lake register-model --set model.checkpoint=FOLDER"
            ) from None
        tags = self._tags(found)
        return self._resolved(model.name, str(found.version), tags, cosine=model.canary_cosine)

    def find(self, model_id: str) -> ResolvedModel:
        """A registered version of a model_id, which an index or release names. Raises RegistryError.

        Of several, which differ in their folder or their canaries, the one that model.alias names, else the newest.
        """
        name, model = self.settings.model.name, self.settings.model
        found = {
            str(version): tags
            for version, tags in self._versions()
            if tags.get("model_id") == model_id
        }
        if not found:
            raise RegistryError(
                f"no version of model {name} has model_id {model_id}; "
                "register that checkpoint again with the profile and dtype it had"
            )
        version = list(found)[-1]
        if len(found) > 1:
            named = str(self.client.get_registered_model(name).aliases.get(model.alias))
            version = named if named in found else version
        return self._resolved(name, version, found[version], cosine=model.canary_cosine)

    def register(
        self, spec: ModelSpec, *, alias: str, canaries: Canaries | None = None
    ) -> ResolvedModel:
        """Register a checkpoint by reference: tags say what it is, the weights stay where they are.

        The logged pyfunc loads the checkpoint from its path, for small uses in notebooks and servers; `canaries` are an
        artifact of it. An identical model (same model_id and path, and canaries that agree by model.canary_cosine) is
        not registered twice, by others at the same moment neither; the alias moves to it. Raises RegistryError for a
        name that the registry does not take.
        """
        name = self.settings.model.name
        require_catalog_name(name, registry_uri=self._mlflow.get_registry_uri())
        with self._alone():
            version = self._version_of(spec, canaries)
            if version is None:
                mine = self._log_version(spec, name, canaries)
                version = self._agree_on_version(spec, canaries, mine)
            self.client.set_registered_model_alias(name, alias, version)
            found = self.client.get_model_version(name, version)
        cosine = self.settings.model.canary_cosine
        return self._resolved(name, version, self._tags(found), cosine=cosine)

    def _agree_on_version(self, spec: ModelSpec, canaries: Canaries | None, mine: str) -> str:
        """The version that all who registered this model at the same moment agree on: the first; mine goes if it is not."""
        first = self._version_of(spec, canaries) or mine
        if first != mine:
            self.client.delete_model_version(self.settings.model.name, mine)
        return first

    def _version_of(self, spec: ModelSpec, canaries: Canaries | None) -> str | None:
        """The first version with the same model_id and path, and canaries that agree: without any of ours all do."""
        wanted = {"model_id": spec.model_id, "checkpoint": spec.path}
        for version, tags in self._versions():
            if {key: tags.get(key) for key in wanted} != wanted:
                continue
            if canaries is None or self._has_canaries(str(version), tags, canaries):
                return str(version)
        return None

    def _has_canaries(self, version: str, tags: Mapping[str, str], canaries: Canaries) -> bool:
        """Whether a version has canaries that agree with these, by model.canary_cosine."""
        sha256 = tags.get(_CANARIES_TAG)
        if sha256 is None:
            return False
        try:
            stored = Canaries.from_bytes(self._download_canaries(version, sha256))
        except RegistryError as error:
            log.warning("%s; the model is registered anew", error)
            return False
        if stored.rows != canaries.rows:
            return False
        errors = [None if status == "ok" else status for status in canaries.statuses]
        made = EncodedBatch(canaries.vectors, errors)
        return not compare(stored, made, cosine=self.settings.model.canary_cosine).faults

    def _resolved(
        self, name: str, version: str, tags: Mapping[str, str], *, cosine: float
    ) -> ResolvedModel:
        """A version with its canaries, which lie in the lake: executors reach no model registry."""
        spec, sha256 = _spec_of(tags, name), tags.get(_CANARIES_TAG)
        if sha256 is None:
            log.warning(
                "model %s version %s has no canaries (registered with model.trial=false, or by an older gme-lake): what "
                "loads of it serve is not checked",
                name,
                version,
            )
            return ResolvedModel(name, version, spec)
        folder = storage.join(absolute(self.settings.lake.root), "canaries")
        canaries = CanarySpec(storage.join(folder, f"{sha256}.json"), sha256, cosine)
        try:
            read_canaries(canaries)
        except ServingError:  # not there yet, or damaged
            data = self._download_canaries(version, sha256, name=name)
            with tempfile.TemporaryDirectory() as local:
                file = Path(local) / _CANARIES_FILE
                file.write_bytes(data)
                storage.publish(file, canaries.uri)
        return ResolvedModel(name, version, replace(spec, canaries=canaries))

    def _download_canaries(self, version: str, sha256: str, *, name: str | None = None) -> bytes:
        """A version's file of canaries. Raises RegistryError where it is gone or has other bytes."""
        name = name or self.settings.model.name
        said = f"the canaries of model {name} version {version}"
        way_out = "register the checkpoint again (gme-lake register-model)"
        uri = f"models:/{name}/{version}/artifacts/{_CANARIES_FILE}"
        try:
            with tempfile.TemporaryDirectory() as local:
                file = self._mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=local)
                data = Path(file).read_bytes()
        except (OSError, self._mlflow.exceptions.MlflowException) as error:
            raise RegistryError(f"{said} cannot be read ({error}): {way_out}") from error
        if sha256_of(data) != sha256:
            raise RegistryError(f"{said} are damaged (sha-256 {sha256_of(data)[:16]}…): {way_out}")
        return data

    def _versions(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """All whole versions of model.name with their tags, oldest first.

        Unity Catalog searches by one condition and returns no tags, so tags are asked for where a search has none.
        """
        query, found, token = name_condition(self.settings.model.name), [], None
        try:
            while True:
                page = self.client.search_model_versions(query, page_token=token)
                found += page
                if not (token := page.token):
                    break
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # no such model yet
                raise
        for version in sorted(found, key=lambda version: int(version.version)):
            if version.status == "READY":  # else one whose registration was killed
                yield int(version.version), self._tags(version)

    def _tags(self, version: Any) -> Mapping[str, str]:
        if "model_id" not in version.tags:
            version = self.client.get_model_version(version.name, str(version.version))
        tags: Mapping[str, str] = version.tags
        return tags

    def _log_version(self, spec: ModelSpec, name: str, canaries: Canaries | None) -> str:
        source = resources.files("jobs.lake") / "pyfunc_model.py"
        tags, artifacts = _tags(spec), {}
        with (
            resources.as_file(source) as path,
            tempfile.TemporaryDirectory() as local,
            warnings.catch_warnings(),
        ):
            if canaries is not None:
                data, file = canaries.to_bytes(), Path(local) / _CANARIES_FILE
                file.write_bytes(data)
                tags[_CANARIES_TAG], artifacts["canaries"] = sha256_of(data), str(file)
            # predict() takes any frame: a type hint would be read as the schema of one column.
            for said in ("type hints", "input example"):
                warnings.filterwarnings("ignore", message=f"(?s).*{said}")
            info = self._mlflow.pyfunc.log_model(
                name="model",  # MLflow 3 takes no dots here, which a name in Unity Catalog has
                python_model=str(path),
                artifacts=artifacts or None,
                model_config={
                    "checkpoint": spec.path,
                    "dtype": spec.dtype,
                    "profile": dataclasses.asdict(spec.profile),
                    "model_id": spec.model_id,
                },
                pip_requirements=["gme-lake[model]"],
                signature=_signature(spec.dim),
            )
        # With its tags at once: a version without them would be taken for one of another tool's.
        version = self._mlflow.register_model(info.model_uri, name, tags=tags)
        return str(version.version)

    @contextmanager
    def open_run(self, name: str) -> Iterator[str]:
        """An MLflow run, the active one inside the block; gives its id. Inside another's block it is nested in that."""
        nested = self._mlflow.active_run() is not None
        with self._mlflow.start_run(run_name=name, nested=nested) as active:
            yield active.info.run_id

    def end_killed_run(self, run_id: str, *, at: datetime) -> None:
        """End the MLflow run of a killed job as of `at`, where it last worked; what MLflow refuses is a warning."""
        try:
            if self.client.get_run(run_id).info.status == "RUNNING":
                end = int(at.timestamp() * 1000)
                self.client.set_terminated(run_id, status="KILLED", end_time=end)
        except self._mlflow.exceptions.MlflowException as error:
            log.warning("the MLflow run %s of a killed job stays open: %.300s", run_id, error)

    @contextmanager
    def child(self, name: str, *, settings: Settings) -> Iterator[None]:
        """An MLflow run inside the active one; what the block logs is its own."""
        with self._mlflow.start_run(run_name=name, nested=True):
            self._mlflow.log_params(_flat(settings.model_dump(by_alias=True, mode="json")))
            yield

    def log_run(
        self,
        *,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        tables: Iterable[tuple[str, int, str]],
    ) -> None:
        """Log tags, settings, metrics and (table, version, context) of what was read to the active run."""
        self._mlflow.set_tags(dict(tags))
        self._mlflow.log_params(_flat(self.settings.model_dump(by_alias=True, mode="json")))
        self._mlflow.log_metrics(dict(metrics))
        for table, version, context in tables:
            self.log_table(table, version=version, context=context)

    def log_table(self, table: str, *, version: int, context: str) -> None:
        """Log a pinned Delta table as an input of the active run."""
        from mlflow.data.delta_dataset_source import DeltaDatasetSource
        from mlflow.data.meta_dataset import MetaDataset

        where = {"path": table} if is_path(table) else {"delta_table_name": table}
        source = DeltaDatasetSource(**where, delta_table_version=version)
        # MLflow drops version 0 from the source; the name always says it.
        name = f"{table[-480:]}@v{version}"
        self._mlflow.log_input(MetaDataset(source, name=name), context=context)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics to the active run."""
        self._mlflow.log_metrics(dict(metrics))

    def log_history(self, history: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log metrics by step, as (step, values), to the active run."""
        for step, values in history:
            self._mlflow.log_metrics(dict(values), step=step)

    def log_artifact(self, path: str) -> None:
        """Log a local file (a report, a plot) to the active run."""
        self._mlflow.log_artifact(path)


def _signature(dim: int) -> Any:
    """Columns that `GmePyfunc.predict` reads, and its vectors; Unity Catalog takes no model without."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    columns = {
        "text": DataType.string,
        "image": DataType.binary,
        "instruction": DataType.string,
        "is_query": DataType.boolean,
    }
    inputs = [ColSpec(kind, name, required=False) for name, kind in columns.items()]
    vectors = TensorSpec(np.dtype("float32"), (-1, dim), name="embedding")
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([vectors]))


def _tags(spec: ModelSpec) -> dict[str, str]:
    return {
        "model_id": spec.model_id,
        "dim": str(spec.dim),
        "weights_sha256": spec.weights_sha256,
        "checkpoint": spec.path,
        "dtype": spec.dtype,
        "profile": json.dumps(dataclasses.asdict(spec.profile)),
    }


def _spec_of(tags: Mapping[str, str], name: str) -> ModelSpec:
    missing = {"model_id", "dim", "weights_sha256", "checkpoint", "dtype", "profile"} - set(tags)
    if missing:
        raise RegistryError(
            f"model version {name} lacks the tags {', '.join(sorted(missing))}: it was not registered by "
            "gme-lake register-model"
        )
    return ModelSpec(
        path=tags["checkpoint"],
        model_id=tags["model_id"],
        dim=int(tags["dim"]),
        weights_sha256=tags["weights_sha256"],
        dtype=tags["dtype"],  # type: ignore[arg-type]
        profile=ModelProfile(**json.loads(tags["profile"])),
    )


def _flat(tree: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{section}.{key}": str(value)[:500]
        for section, fields in tree.items()
        for key, value in fields.items()
    }
