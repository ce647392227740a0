"""Load the model of a spec into this process, and check it: the checkpoint is the driver's, its canaries agree."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid

from udfs.errors import CheckpointError
from udfs.gme.canaries.check import check_canaries
from udfs.gme.canaries.environment import describe_environment, report_load
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.encoder import Encoder
from udfs.gme.fingerprint import model_id, tokenizer_sha256
from udfs.serving.window import Loaded
from udfs.specs import ModelSpec, ServingSpec

log = logging.getLogger("gme_lake")


def load_model(
    model: ModelSpec, serving: ServingSpec, *, device: str, threads: int | None
) -> Loaded:
    """The model, verified and on `device`; `threads` as in `EmbeddingModel.load`.

    CheckpointError says what is wrong with the checkpoint, CanaryError which canaries do not agree.
    """
    started = time.monotonic()
    checkpoint = verify(model)
    # torch: seconds, and only worth them for a right checkpoint
    from udfs.gme.model import EmbeddingModel

    loaded = EmbeddingModel.load(
        model.path,
        dtype=model.dtype,
        device=device,
        token_budget=serving.token_budget,
        patch_budget=serving.patch_budget,
        threads=threads,
    )
    environment = describe_environment(device)
    loaded_in = time.monotonic() - started
    lowest = None
    if model.canaries is not None:
        encoder = Encoder(checkpoint, loaded, dtype=model.dtype, profile=model.profile)
        lowest = check_canaries(model.canaries, encoder, environment=environment)
    checked_in = time.monotonic() - started - loaded_in
    server = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
    log.info("loaded %s on %s in %.1f s as %s", model.model_id, device, loaded_in, server)
    if lowest is None:
        log.info("the model has no canaries: what it serves is not checked")
    else:
        log.info("lowest cosine with its canaries: %.7f (%.1f s)", lowest, checked_in)
    return Loaded(
        model=loaded,
        server=server,
        load_report=report_load(environment, lowest=lowest),
        dim=loaded.dim,
        vocabulary=loaded.vocabulary,
        image_token=loaded.image_token,
        tokenizer_sha256=tokenizer_sha256(checkpoint.tokenizer_file),
        load_seconds=loaded_in + checked_in,
    )


def verify(model: ModelSpec) -> Checkpoint:
    """The checkpoint; raises CheckpointError unless the folder on this machine holds exactly the model of the spec."""
    checkpoint = Checkpoint.read(model.path)
    found = checkpoint.weights_sha256()
    if found != model.weights_sha256:
        raise CheckpointError(
            f"{model.path} on {socket.gethostname()} holds weights {found[:16]}..., but the driver "
            f"resolved {model.weights_sha256[:16]}...: copy the registered checkpoint to this machine"
        )
    name = model_id(checkpoint, weights_sha256=found, dtype=model.dtype, profile=model.profile)
    if name != model.model_id:
        raise CheckpointError(
            f"{model.path} on {socket.gethostname()} makes model_id {name}, but the driver resolved "
            f"{model.model_id}: its config, its tokenizer or this gme-lake differ from the driver's"
        )
    return checkpoint
