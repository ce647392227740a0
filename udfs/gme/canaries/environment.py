"""What a process makes vectors with: what `model_id` cannot see, because it is the machine's."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version

import PIL
from PIL import features

UNCHECKED = "unchecked"  # instead of the lowest cosine of a model that has no canaries


def describe_environment(device: str) -> dict[str, str]:
    """Versions of what prepares and embeds rows, and the device that a setting names. Imports torch."""
    import torch

    from udfs.gme.model import device_name, resolve_device

    turbo = features.version_feature("libjpeg_turbo")
    return {
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "libjpeg": f"turbo {turbo}" if turbo else str(features.version_codec("jpg")),
        "tokenizers": version("tokenizers"),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "device": device_name(resolve_device(device)),
    }


def format_environment(environment: Mapping[str, str]) -> str:
    """In one line."""
    return ", ".join(f"{name} {value}" for name, value in environment.items())


def report_load(environment: Mapping[str, str], *, lowest: float | None) -> str:
    """What a load says of itself, as JSON: the environment, and its lowest cosine with the model's canaries."""
    cosine = UNCHECKED if lowest is None else f"{lowest:.7f}"
    return json.dumps(dict(environment) | {"canary_cosine": cosine})


def merge_loads(reports: Iterable[str]) -> dict[str, str]:
    """What several loads were made in; of values that differ all, and of their cosines the lowest."""
    loads: list[dict[str, str]] = [json.loads(report) for report in sorted(reports)]
    cosines = {load.pop("canary_cosine") for load in loads}
    merged = {
        name: ", ".join(sorted({load[name] for load in loads if name in load}))
        for name in dict.fromkeys(name for load in loads for name in load)
    }
    if cosines:
        checked = cosines - {UNCHECKED}
        merged["canary_cosine"] = min(checked, key=float) if checked == cosines else UNCHECKED
    return merged


def find_differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Names of what differs."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]
