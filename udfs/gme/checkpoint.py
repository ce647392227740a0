"""Read and check the folder of a GME checkpoint: files, width, hash of the weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udfs.errors import CheckpointError
from udfs.gme.patches import MERGE, PATCH, TOKEN_PIXELS

_SINGLE = "model.safetensors"
SHARDED = "model.safetensors.index.json"
_CHUNK = 8 << 20


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint folder in the hub layout, whose files have been checked to be there."""

    path: Path
    config: dict[str, Any]
    weight_files: tuple[Path, ...]

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        """Check a folder; raises `CheckpointError` that names what is missing or does not fit."""
        folder = Path(path)
        if not folder.is_dir():
            raise CheckpointError(f"no checkpoint folder at {folder}: give a folder on local disk")
        config = _read_json(folder / "config.json")
        _check_architecture(folder, config)
        checkpoint = cls(folder, config, _weight_files(folder))
        if not checkpoint.tokenizer_file.is_file():
            raise CheckpointError(f"{folder} has no tokenizer.json: download the whole repository")
        return checkpoint

    @property
    def tokenizer_file(self) -> Path:
        """The `tokenizers` file."""
        return self.path / "tokenizer.json"

    @property
    def dim(self) -> int:
        """Width of a vector: the language model's hidden size (published: 1536 for 2B, 3584 for 7B)."""
        return int(text_config(self.config)["hidden_size"])

    def require_dim(self, dim: int | None) -> None:
        """Raise `CheckpointError` unless the profile's `dim` (None: any) is this checkpoint's."""
        if dim is not None and dim != self.dim:
            raise CheckpointError(
                f"the profile says vectors of {dim} numbers, but {self.path} makes {self.dim}: "
                "wrong checkpoint, or wrong profile"
            )

    def picture_tokens(self) -> tuple[int, int] | None:
        """The range of image tokens that the checkpoint's own preprocessor_config.json says; None where it says none."""
        file = self.path / "preprocessor_config.json"
        if not file.is_file():
            return None
        said = _read_json(file)
        size = said.get("size") or {}
        pixels = (
            said.get("min_pixels", size.get("shortest_edge")),
            said.get("max_pixels", size.get("longest_edge")),
        )
        if not all(isinstance(value, int) for value in pixels):
            return None
        low, high = (round(value / TOKEN_PIXELS) for value in pixels)
        return low, high

    def weights_sha256(self) -> str:
        """Hex sha-256 over the weight files in the order of their names, read in pieces."""
        digest = hashlib.sha256()
        for file in self.weight_files:
            with file.open("rb") as stream:
                while piece := stream.read(_CHUNK):
                    digest.update(piece)
        return digest.hexdigest()


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's settings: nested in files written by transformers 5, flat in the published ones."""
    nested: dict[str, Any] = config.get("text_config") or config
    return nested


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file.parent} has no {file.name}: not a checkpoint folder"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return value


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    vision = config.get("vision_config") or {}
    found = {
        "model_type": config.get("model_type"),
        "patch_size": vision.get("patch_size", PATCH),
        "spatial_merge_size": vision.get("spatial_merge_size", MERGE),
        "temporal_patch_size": vision.get("temporal_patch_size", 2),
    }
    wanted = {
        "model_type": "qwen2_vl",
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }
    if found != wanted:
        raise CheckpointError(
            f"{folder}/config.json is not GME's architecture: {found}, not {wanted}"
        )
    if not isinstance(text_config(config).get("hidden_size"), int):
        raise CheckpointError(f"{folder}/config.json says no hidden_size")


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / SHARDED).is_file():
        names = sorted(set(_read_json(folder / SHARDED).get("weight_map", {}).values()))
    elif (folder / _SINGLE).is_file():
        names = [_SINGLE]
    else:
        names = []
    if not names:
        raise CheckpointError(f"{folder} has no {_SINGLE} and no {SHARDED} that names shards")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks the weight files {missing}: download them again")
    return tuple(folder / name for name in names)
