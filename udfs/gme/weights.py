"""Check the weight files of a checkpoint from their headers: whole, of floats, and of the sizes that its config says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from udfs.errors import CheckpointError
from udfs.gme.checkpoint import SHARDED, Checkpoint, text_config

_FLOATS = {"F64", "F32", "F16", "BF16"}
# Prefixes differ between published files ("model.layers.0.") and those of transformers 5 ("language_model.layers.0.").
_KNOWN = re.compile(r"(?:^|\.)((?:layers|blocks)\.\d+\..+|embed_tokens\.weight)$")


class _Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where a weight file is cut or damaged, lacks tensors, or is not of config.json's sizes.

    Reads headers alone, some hundred kilobytes: a download that was broken off is found before anything is hashed.
    """
    tensors: dict[str, _Tensor] = {}
    for file in checkpoint.weight_files:
        found = _header(file)
        _require_listed(checkpoint.path, file, found)
        tensors |= found
    odd = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in _FLOATS}
    if odd:
        name = min(odd)
        raise CheckpointError(
            f"{checkpoint.path}: {len(odd)} of {len(tensors)} weights are no floats, such as {name} ({odd[name]}); "
            "quantised checkpoints are not read: give the float16 or bfloat16 one"
        )
    _check_sizes(checkpoint, tensors)


def _header(file: Path) -> dict[str, _Tensor]:
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            return {
                name: _Tensor(str(found.get_dtype()), tuple(found.get_shape()))
                for name, found in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} of {file.stat().st_size:,} bytes is cut or damaged ({error}): download it again"
        ) from error


def _require_listed(folder: Path, file: Path, found: dict[str, _Tensor]) -> None:
    """Every tensor that the index says is in this file must be there."""
    index = folder / SHARDED
    if not index.is_file():
        return
    listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    missing = sorted(
        name for name, where in listed.items() if where == file.name and name not in found
    )
    if missing:
        raise CheckpointError(
            f"{file} is missing {len(missing)} tensors that {SHARDED} says are in it, such as {missing[0]}: "
            "the files are not of one checkpoint; download them again"
        )


def _check_sizes(checkpoint: Checkpoint, tensors: dict[str, _Tensor]) -> None:
    named = {
        match[1]: tensor.shape for name, tensor in tensors.items() if (match := _KNOWN.search(name))
    }
    for name, shape in _tensor_shapes(checkpoint.config).items():
        if name not in named:
            raise CheckpointError(
                f"the weights in {checkpoint.path} are missing {name}, which config.json implies: download "
                "the whole repository"
            )
        if named[name] != shape:
            raise CheckpointError(
                f"{checkpoint.path}: {name} has the shape {named[name]}, but config.json implies {shape}; "
                "the files are not of one checkpoint"
            )


def _tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """One tensor or two of every layer, by the sizes that the config names."""
    text, vision = text_config(config), config.get("vision_config") or {}
    expected: dict[str, tuple[int, ...]] = {}
    hidden = text["hidden_size"]
    if "vocab_size" in text:
        expected["embed_tokens.weight"] = (text["vocab_size"], hidden)
    for layer in range(text.get("num_hidden_layers", 0)):
        expected[f"layers.{layer}.self_attn.q_proj.weight"] = (hidden, hidden)
        if "intermediate_size" in text:
            shape = (hidden, text["intermediate_size"])
            expected[f"layers.{layer}.mlp.down_proj.weight"] = shape
    width = int(vision.get("embed_dim", 0))
    for layer in range(vision.get("depth", 0) if width else 0):
        expected[f"blocks.{layer}.attn.qkv.weight"] = (3 * width, width)
    return expected
