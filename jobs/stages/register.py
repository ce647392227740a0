"""From a checkpoint on disk to the spec that names it everywhere."""

from __future__ import annotations

import logging
from pathlib import Path

from jobs.settings.conf import conf_folder, profile_named
from jobs.settings.embed import ModelSettings
from udfs.errors import CheckpointError
from udfs.gme import Encoder
from udfs.gme.canaries.environment import describe_environment
from udfs.gme.canaries.inputs import canary_rows
from udfs.gme.canaries.record import Canaries
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


def make_canaries(spec: ModelSpec, settings: ModelSettings) -> Canaries | None:
    """Embed the canaries as an executor would, on a GPU where there is one; None where `model.trial` says not to.

    A picture that this machine cannot read is recorded as such, with a warning. Raises CheckpointError where the model
    cannot be loaded, or fails over a row. Takes memory for all its weights, and seconds (2B on a GPU) to minutes (on a CPU).
    """
    if not settings.trial:
        return None
    rows = canary_rows()
    said = f"{len(rows)} canaries were to be embedded with {spec.path}"
    try:
        encoder = Encoder.load(spec.path, dtype=spec.dtype, device="auto", profile=spec.profile)
        made = encoder.encode(rows.values())
        environment = describe_environment("auto")
    except ImportError as error:
        raise CheckpointError(
            f"{said}, but {error}: install gme-lake[model] on this machine, or set model.trial=false and register it "
            "without canaries"
        ) from error
    except (ValueError, RuntimeError, MemoryError, OSError) as error:  # torch and transformers
        raise CheckpointError(f"{said}: {type(error).__name__}: {error}") from error
    for name, reason in zip(rows, made.errors, strict=True):
        if reason is not None and not reason.startswith("image_"):
            raise CheckpointError(f"{said}, and {name!r} could not be: {reason}")
        if reason is not None:
            log.warning("canary %r cannot be read on this machine: %s", name, reason)
    if made.vectors.shape[1] != spec.dim:
        raise CheckpointError(
            f"{said}: vectors of {spec.dim} numbers expected, {made.vectors.shape[1]} found"
        )
    return Canaries.of(rows, made, environment=environment)


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
    """The folder itself, the one of that name in conf/, or the snapshot of a hub id in the local Hugging Face cache;
    nothing is downloaded.
    """
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
