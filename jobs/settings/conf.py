"""Files of `conf/`, from the wheel, a zip or the checkout, and the model profiles that stand there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from udfs.errors import SettingsError
from udfs.specs import GME, REFERENCE, ModelProfile


class _OneValueAKey(yaml.SafeLoader):
    """YAML of which no key is said twice: PyYAML takes the last one, and a whole section before it is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if (other := first.setdefault(key.value, key)) is not key:
                raise yaml.constructor.ConstructorError(
                    f"key {key.value!r} stands here", other.start_mark, "and again", key.start_mark
                )
        return super().construct_mapping(node, deep)


def conf_text(name: str) -> str:
    """Text of a file of `conf/`: from the wheel, a --py-files zip, or the checkout."""
    return _conf(name).read_text("utf-8")


def conf_names(folder: str) -> list[str]:
    """Names of the files in a folder of `conf/`, sorted."""
    return sorted(item.name for item in _conf(folder).iterdir())


def conf_file(name: str) -> AbstractContextManager[Path]:
    """A file of `conf/` as a path that lasts as long as the context: a copy where it lies in a zip."""
    return resources.as_file(_conf(name))


def conf_folder(name: str) -> Path | None:
    """A folder of `conf/`, or None where there is none of that name or it lies in a zip."""
    folder = _conf(name)
    return folder if isinstance(folder, Path) and folder.is_dir() else None


def conf_yaml(file: str) -> Any:
    """Content of a YAML file given by path, or by its name in `conf/`. Raises SettingsError."""
    path = Path(file)
    try:
        text = path.read_text("utf-8") if path.exists() else conf_text(file)
    except FileNotFoundError:
        raise SettingsError(f"{file}: no such file, and none of that name in conf/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read as a text file: {error}") from None
    try:
        return yaml.load(text, _OneValueAKey) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not valid YAML: {error}") from None


def profile_named(name: str) -> ModelProfile:
    """The model profile `name`: `gme`, `reference`, or an entry of conf/models.yaml."""
    known = {"gme": GME, "reference": REFERENCE} | _published_profiles()
    if name not in known:
        raise SettingsError(
            f"model.profile={name}: no such profile{_nearest(name, known)} There are {', '.join(sorted(known))}."
        )
    return known[name]


def _conf(name: str) -> Traversable:
    packaged = resources.files("jobs") / "conf"
    checkout = Path(__file__).resolve().parents[2] / "conf"
    folder: Traversable = packaged if packaged.is_dir() else checkout
    return folder.joinpath(*name.split("/"))


def _published_profiles() -> dict[str, ModelProfile]:
    entries = yaml.safe_load(conf_text("models.yaml"))["profiles"]
    return {name: ModelProfile(name=name, **fields) for name, fields in entries.items()}


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else "."
