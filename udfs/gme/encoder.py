"""Embed rows without Spark: checkpoint folder in, L2-normalised vectors out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from udfs.errors import RowRejected, SettingsError
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.fingerprint import model_id
from udfs.gme.prepare import EncodedBatch, Prepared, Row, RowPreparer
from udfs.specs import GME, REFERENCE, Dtype, ModelProfile

if TYPE_CHECKING:
    from udfs.gme.model import EmbeddingModel

_WINDOW_ROWS = 512  # rows prepared, sorted and packed together
_WINDOW_BYTES = 256 << 20
_PROFILES = {"gme": GME, "reference": REFERENCE}


class Encoder:
    """One checkpoint, loaded, with its profile. `encode` may be called from one thread at a time."""

    def __init__(
        self, checkpoint: Checkpoint, model: EmbeddingModel, *, dtype: Dtype, profile: ModelProfile
    ) -> None:
        self._checkpoint = checkpoint
        self._model = model
        self._dtype = dtype
        self._profile = profile
        self._preparer = RowPreparer.load(checkpoint.path, profile=profile)

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: Dtype = "float32",
        device: str = "cpu",
        profile: Literal["gme", "reference"] | ModelProfile = "gme",
    ) -> Encoder:
        """Load a checkpoint folder. `device`: "cpu", "cuda", "cuda:1" or "auto" (a GPU where there is one).

        Raises `CheckpointError` for a folder that is incomplete or contradicts the profile.
        """
        from udfs.gme.model import EmbeddingModel  # torch: seconds to import

        chosen = _profile(profile)
        checkpoint = Checkpoint.read(path)
        checkpoint.require_dim(chosen.dim)
        model = EmbeddingModel.load(path, dtype=dtype, device=device, threads=None)
        return cls(checkpoint, model, dtype=dtype, profile=chosen)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self._checkpoint.dim

    @cached_property
    def model_id(self) -> str:
        """Fingerprint of all that can change a vector; the first use reads the weights once to hash them."""
        return model_id(
            self._checkpoint,
            weights_sha256=self._checkpoint.weights_sha256(),
            dtype=self._dtype,
            profile=self._profile,
        )

    def encode(self, rows: Iterable[Row]) -> EncodedBatch:
        """Embed any mix of text, image and fused rows. A row that cannot be embedded never disturbs the others."""
        parts = [self._encode_window(window) for window in self._windows(rows)]
        if not parts:
            return EncodedBatch(np.empty((0, self.dim), np.float32), [])
        errors = [error for part in parts for error in part.errors]
        return EncodedBatch(np.concatenate([part.vectors for part in parts]), errors)

    def _windows(self, rows: Iterable[Row]) -> Iterator[list[Prepared | RowRejected]]:
        window: list[Prepared | RowRejected] = []
        held = 0
        for row in rows:
            try:
                window.append(prepared := self._preparer.prepare(row))
                held += prepared.nbytes
            except RowRejected as error:
                window.append(error)
            if len(window) >= _WINDOW_ROWS or held >= _WINDOW_BYTES:
                yield window
                window, held = [], 0
        if window:
            yield window

    def _encode_window(self, window: list[Prepared | RowRejected]) -> EncodedBatch:
        vectors = np.full((len(window), self.dim), np.nan, dtype=np.float32)
        errors = [str(item) if isinstance(item, RowRejected) else None for item in window]
        good = [number for number, item in enumerate(window) if isinstance(item, Prepared)]
        done = self._model.embed([item for item in window if isinstance(item, Prepared)])
        vectors[good] = done.vectors
        for number, error in zip(good, done.errors, strict=True):
            errors[number] = error
        return EncodedBatch(vectors, errors)


def _profile(profile: str | ModelProfile) -> ModelProfile:
    if isinstance(profile, ModelProfile):
        return profile
    if profile not in _PROFILES:
        raise SettingsError(f"unknown profile {profile!r}: use one of {sorted(_PROFILES)}")
    return _PROFILES[profile]
