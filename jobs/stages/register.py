"""From a checkpoint on disk to the spec that names it everywhere."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from PIL import Image

from jobs.settings.conf import conf_folder, profile_named
from jobs.settings.embed import ModelSettings
from udfs.errors import CheckpointError
from udfs.gme import Encoder, Row
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.fingerprint import model_id
from udfs.gme.weights import check_weights
from udfs.specs import ModelProfile, ModelSpec

log = logging.getLogger("gme_lake")


def describe_checkpoint(settings: ModelSettings) -> ModelSpec:
    """The spec of `model.checkpoint` under `model.profile` and `model.dtype`.

    Reads every weight file once for its sha-256. Raises CheckpointError where files are missing or cut, their sizes
    are not those of the config, or the width is not what the profile says. A profile that contradicts the
    checkpoint's own budget of image tokens is logged as a warning.
    """
    if not settings.checkpoint:
        raise CheckpointError(
            "model.checkpoint is not set: give a checkpoint folder or a cached hub id"
        )
    path = _local_folder(settings.checkpoint)
    profile = profile_named(settings.profile)
    checkpoint = Checkpoint.read(path)
    checkpoint.require_dim(profile.dim)
    check_weights(checkpoint)
    _compare_budgets(checkpoint, profile)
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


def try_model(spec: ModelSpec) -> None:
    """Embed one row with picture and text as an executor would. Raises CheckpointError where that fails.

    Loads the model: memory for all its weights, and seconds (2B) to minutes (7B on a CPU).
    """
    try:
        encoder = Encoder.load(spec.path, dtype=spec.dtype, device="auto", profile=spec.profile)
        found = encoder.encode([Row(text="a trial row", image=_trial_picture())])
    except ImportError as error:
        raise CheckpointError(
            f"one row was to be embedded with {spec.path}, but {error}: install gme-lake[model] on this machine, or "
            "set model.trial=false and let the first embed-table find out"
        ) from error
    except (ValueError, RuntimeError, MemoryError, OSError) as error:  # torch and transformers
        raise CheckpointError(
            f"one row could not be embedded with {spec.path}: {type(error).__name__}: {error}"
        ) from error
    if found.errors[0] is not None:
        raise CheckpointError(f"one row could not be embedded with {spec.path}: {found.errors[0]}")
    if found.vectors.shape != (1, spec.dim):
        raise CheckpointError(
            f"vectors of {spec.dim} numbers expected from {spec.path}, one trial row gave {found.vectors.shape[1]}"
        )


def _trial_picture() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").save(out, "PNG")
    return out.getvalue()


def _compare_budgets(checkpoint: Checkpoint, profile: ModelProfile) -> None:
    """Published GME checkpoints say 4 to 16,384 tokens and mean any; a narrower range is what a model was trained for."""
    own = checkpoint.picture_tokens()
    low, high = profile.min_image_tokens, profile.max_image_tokens
    if own is not None and (low < own[0] or high > own[1]):
        log.warning(
            "profile %s makes %d to %d image tokens of a picture, but preprocessor_config.json of %s says %d to %d: its "
            "vectors may be poor; is this the profile that the checkpoint was trained with?",
            profile.name,
            low,
            high,
            checkpoint.path,
            *own,
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
