"""Compute `model_id`: one short name for everything that can change a vector."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from udfs.gme.checkpoint import Checkpoint
from udfs.specs import Dtype, ModelProfile

# Raise it when the code that turns a row into model input, or hidden states into a vector, changes its result.
PREPROCESSING_VERSION = "1"
# Written by tools into config.json, and without effect on a vector.
_IDLE_CONFIG = ("_name_or_path", "architectures", "auto_map", "transformers_version")


def ingredients(
    checkpoint: Checkpoint, *, weights_sha256: str, dtype: Dtype, profile: ModelProfile
) -> dict[str, Any]:
    """Everything that can change a vector, as plain JSON values.

    The profile's `name` has no effect, and its `dim` is only an expectation: the checkpoint's own width counts.
    """
    settings = asdict(profile)
    del settings["name"], settings["dim"]
    config = {key: value for key, value in checkpoint.config.items() if key not in _IDLE_CONFIG}
    return {
        "weights_sha256": weights_sha256,
        "tokenizer_sha256": tokenizer_sha256(checkpoint.tokenizer_file),
        "config": config,
        "dim": checkpoint.dim,
        "dtype": dtype,
        "normalisation": "l2",
        "preprocessing_version": PREPROCESSING_VERSION,
        "profile": settings,
    }


def tokenizer_sha256(file: Path) -> str:
    """Hex sha-256 of a tokenizer.json: an ingredient of `model_id`, and what workers show a model server."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fingerprint(values: dict[str, Any]) -> str:
    """First 16 hex digits of the sha-256 over canonical JSON (sorted keys, no spaces, ASCII)."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model_id(
    checkpoint: Checkpoint, *, weights_sha256: str, dtype: Dtype, profile: ModelProfile
) -> str:
    """The fingerprint of a checkpoint under a profile; pass `checkpoint.weights_sha256()`, computed once."""
    return fingerprint(
        ingredients(checkpoint, weights_sha256=weights_sha256, dtype=dtype, profile=profile)
    )
