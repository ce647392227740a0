"""Settings read: YAML files, then environment, then `--set a.b=c`; the only reader of the environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from jobs.settings.conf import conf_yaml
from jobs.settings.settings import Settings
from udfs.errors import SettingsError

ENV_PREFIX = "GME_LAKE_"
_SECTIONS = Settings.model_fields  # an empty one says nothing


def load_settings(
    *, files: Iterable[str] = (), sets: Iterable[str] = (), env: Mapping[str, str] | None = None
) -> Settings:
    """Settings from YAML files, `GME_LAKE_SECTION__KEY` variables and `a.b=c` strings, later ones first.

    Raises SettingsError that names the unknown key and the nearest known one, or the value that does not fit.
    """
    merged: dict[str, Any] = {}
    for file in files:
        said = _read_yaml(file).items()
        _merge(
            merged, {key: value for key, value in said if value is not None or key not in _SECTIONS}
        )
    for name, value in (os.environ if env is None else env).items():
        if name.startswith(ENV_PREFIX):
            path = name.removeprefix(ENV_PREFIX).lower().split("__")
            if path[:2] == ["spark", "conf"]:
                raise SettingsError(
                    f"environment variable {name}: names of Spark settings have capitals and dots, which "
                    "variables have not; use --set spark.conf.NAME=VALUE or a YAML file"
                )
            _put(merged, path, value, where=f"environment variable {name}")
    for item in sets:
        key, sign, value = item.partition("=")
        if not sign:
            raise SettingsError(f"--set {item}: expected section.key=value")
        _put(merged, key.strip().split("."), value, where=f"--set {item}")
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def tracking_uri_from_environment() -> str | None:
    """MLFLOW_TRACKING_URI, or `databricks` inside a Databricks runtime."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return "databricks" if "DATABRICKS_RUNTIME_VERSION" in os.environ else None


def session_is_given() -> bool:
    """Whether spark-submit or a platform has started the JVM, so that its session is to be used as it is."""
    return "PYSPARK_GATEWAY_PORT" in os.environ or "DATABRICKS_RUNTIME_VERSION" in os.environ


def hive_addresses() -> list[str]:
    """Variables that are set and that Hive's server takes its address from, whatever its settings are."""
    names = ("HIVE_SERVER2_THRIFT_BIND_HOST", "HIVE_SERVER2_THRIFT_PORT")
    return [name for name in names if name in os.environ]


def connect_token(conf: Mapping[str, str]) -> str | None:
    """The token that Spark Connect asks clients for, by Spark's settings or else the environment; None: it asks nothing."""
    given = conf.get("spark.connect.authenticate.token")
    return given or os.environ.get("SPARK_CONNECT_AUTHENTICATE_TOKEN") or None


def java_home() -> str | None:
    """JAVA_HOME, where Spark looks for Java before it looks on PATH."""
    return os.environ.get("JAVA_HOME") or None


def prepare_environment(values: Mapping[str, str]) -> None:
    """Set variables that libraries read at start, where the user has not set them."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


def _read_yaml(file: str) -> dict[str, Any]:
    content = conf_yaml(file)
    if not isinstance(content, dict):
        raise SettingsError(f"--config {file}: expected sections with keys, found {content!r:.60}")
    return content


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping):
            holder = into.get(key)
            into[key] = holder = holder if isinstance(holder, dict) else {}
            _merge(holder, value)
        else:
            into[key] = value


def _put(into: dict[str, Any], path: Sequence[str], value: str, *, where: str) -> None:
    if path[:2] == ["spark", "conf"] and len(path) > 2:
        plain: str | None = value
        path = ["spark", "conf", ".".join(path[2:])]
    elif len(path) == 2:
        plain = None if value in {"null", "None"} else value
    else:
        raise SettingsError(f"{where}: expected section.key, found {'.'.join(path)!r}")
    holder = into
    for part in path[:-1]:
        holder = holder.setdefault(part, {})
        if not isinstance(holder, dict):
            raise SettingsError(f"{where}: {part} is a section, found {holder!r:.60}")
    holder[path[-1]] = plain


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        loc = [str(part) for part in item["loc"]]
        name = ".".join(loc)
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name}{_nearest_setting(loc)}")
        else:
            lines.append(f"setting {name}={item['input']!r:.80}: {item['msg']}")
    if len(lines) == 1:
        return lines[0]
    sentences = [line if line.endswith(("?", ".")) else f"{line}." for line in lines]
    return " ".join([sentences[0], *(line[0].upper() + line[1:] for line in sentences[1:])])


def _known_keys(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        model = type(model.model_fields[part].default)
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest_setting(loc: Sequence[str]) -> str:
    """The setting that was meant, with its section: one of that section, or of another with that very key."""
    *section, key = loc
    own = _known_keys(section)
    close = difflib.get_close_matches(key, own, n=1, cutoff=0.4)
    if not close and section:
        others = [f"{other}.{key}" for other in _known_keys([]) if key in _known_keys([other])]
        if others:
            return f"; did you mean {' or '.join(others)}?"
    if not close:
        return f"; there are {', '.join('.'.join([*section, name]) for name in sorted(own))}"
    return f"; did you mean {'.'.join([*section, *close])}?"
