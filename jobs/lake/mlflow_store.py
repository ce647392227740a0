"""What MLflow's stores need of their callers: one process at a time in a local database, and Unity Catalog's rules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlparse

from filelock import FileLock

from udfs.errors import RegistryError

_SQLITE = "sqlite:///"


@contextmanager
def one_at_a_time(*uris: str | None) -> Iterator[None]:
    """Hold a lock beside each of the stores that is a local SQLite file.

    MLflow creates the tables of a new store in whichever process opens it first, and the others die in its
    migrations. The lock goes with the process, however that ends. Servers arrange this themselves.
    """
    files = {
        Path(uri.removeprefix(_SQLITE))
        for uri in uris
        if uri is not None and uri.startswith(_SQLITE)
    }
    with ExitStack() as stack:
        for file in sorted(files):
            file.parent.mkdir(parents=True, exist_ok=True)
            if os.access(file.parent, os.W_OK):  # who may only read makes no tables
                stack.enter_context(FileLock(f"{file}.lock", is_singleton=True))
        yield


def is_unity_catalog(registry_uri: str) -> bool:
    """Whether model versions go to Databricks' Unity Catalog."""
    return "databricks-uc" in (urlparse(registry_uri).scheme, registry_uri)


def name_condition(model: str) -> str:
    """The one condition by which every kind of registry searches versions; RegistryError for a name it cannot say.

    MLflow has no way to write a quote inside of quotes.
    """
    for quote in ("'", '"'):
        if quote not in model:
            return f"name = {quote}{model}{quote}"
    raise RegistryError(
        f"model.name={model}: MLflow cannot search for a name with both kinds of quotes; choose another"
    )


def require_catalog_name(model: str, *, registry_uri: str) -> None:
    """Raise RegistryError where the registry is Unity Catalog and the name does not have its three levels."""
    if is_unity_catalog(registry_uri) and (len(parts := model.split(".")) != 3 or not all(parts)):
        raise RegistryError(
            f"model.name={model}: models in Unity Catalog ({registry_uri}) are named catalog.schema.model; set "
            f"model.name=main.gme.{parts[-1] or 'gme'}, or MLFLOW_REGISTRY_URI=databricks for the workspace's registry"
        )
