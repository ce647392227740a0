"""EmbedSpec of a checkpoint folder on this machine, as the driver would resolve it."""

from pathlib import Path

from udfs.gme.checkpoint import Checkpoint
from udfs.gme.fingerprint import model_id
from udfs.specs import EmbedSpec, ModelProfile, ModelSpec, ServingSpec

SMALL_IMAGES = ModelProfile(name="small", min_image_tokens=4, max_image_tokens=16)


def embed_spec(
    path: Path, *, profile: ModelProfile = SMALL_IMAGES, serving: ServingSpec | None = None
) -> EmbedSpec:
    """The spec; one CPU thread unless `serving` says otherwise."""
    checkpoint = Checkpoint.read(path)
    weights = checkpoint.weights_sha256()
    model = ModelSpec(
        path=str(path),
        model_id=model_id(checkpoint, weights_sha256=weights, dtype="float32", profile=profile),
        dim=checkpoint.dim,
        weights_sha256=weights,
        profile=profile,
    )
    return EmbedSpec(model, serving or ServingSpec(device="cpu", threads=1))
