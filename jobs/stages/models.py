"""From a checkpoint on disk to the spec that names it everywhere."""

from __future__ import annotations

from pathlib import Path

from jobs.driver.settings import ModelSettings, conf_folder, profile_named
from udfs.errors import CheckpointError
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.fingerprint import model_id
from udfs.specs import ModelSpec


def describe_checkpoint(settings: ModelSettings) -> ModelSpec:
    """The spec of `model.checkpoint` under `model.profile` and `model.dtype`.

    Reads every weight file once for its sha-256. Raises CheckpointError where files are missing or the width is
    not what the profile says.
    """
    if not settings.checkpoint:
        raise CheckpointError(
            "model.checkpoint is not set: give a checkpoint folder or a cached hub id"
        )
    path = _local_folder(settings.checkpoint)
    profile = profile_named(settings.profile)
    checkpoint = Checkpoint.read(path)
    checkpoint.require_dim(profile.dim)
    weights = checkpoint.weights_sha256()
    return ModelSpec(
        path=str(path),
        model_id=model_id(
            checkpoint, weights_sha256=weights, dtype=settings.dtype, profile=profile
        ),
        dim=checkpoint.dim,
        weights_sha256=weights,
        dtype=settings.dtype,
        profile=profile,
    )


def _local_folder(checkpoint: str) -> Path:
    """The folder itself, the one of that name in conf/, or the snapshot of a hub id in the local Hugging Face cache; nothing is downloaded."""
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if packaged := conf_folder(checkpoint):
        return packaged
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(checkpoint, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        raise CheckpointError(
            f"model.checkpoint={checkpoint}: no such folder, and no such model in the Hugging Face cache of this "
            f"machine; download it first (hf download {checkpoint})"
        ) from None
