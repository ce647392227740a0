"""From a row (text, image bytes, instruction) to what the model takes: token ids and uint8 patches; no torch needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from udfs.errors import RowRejected, SettingsError
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.images import decode_image, picture_size
from udfs.gme.patches import FACTOR, MERGE, Patches, image_patches, target_sizes
from udfs.gme.prompts import Prompts
from udfs.specs import ModelProfile


@dataclass(frozen=True)
class Row:
    """One row to embed. `image` is an encoded file; only a query (`is_query`) uses its instruction."""

    text: str | None = None
    image: bytes | None = None
    instruction: str | None = None
    is_query: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the text, as UTF-8, and of the encoded picture."""
        return len((self.text or "").encode()) + len(self.image or b"")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Model input of one row: `input_ids` int32 (L,), `patches` uint8 (P, 3, 14, 14) or None, `grid` (rows, columns)."""

    input_ids: npt.NDArray[np.int32]
    patches: Patches | None = None
    grid: tuple[int, int] | None = None

    @property
    def tokens(self) -> int:
        """Language-model tokens, image tokens included."""
        return len(self.input_ids)

    @property
    def patch_count(self) -> int:
        """Vision patches; 0 without an image."""
        return 0 if self.patches is None else len(self.patches)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.input_ids.nbytes + (0 if self.patches is None else self.patches.nbytes)


class TokenCount(NamedTuple):
    """Language-model tokens of one row: those of its picture, and those of its text and of the frame around both."""

    text: int
    picture: int


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Result of rows in their order: `vectors` float32 (n, d), L2-normalised, and `errors` (None, or "status: detail").

    A row with an error has a vector of NaN. `budget_tokens`: what the model batches that they went in had room for.
    """

    vectors: npt.NDArray[np.float32]
    errors: list[str | None]
    budget_tokens: int = 0


class RowPreparer:
    """Turns rows into model input for one checkpoint and profile. Thread-safe."""

    def __init__(self, prompts: Prompts, *, profile: ModelProfile) -> None:
        self._prompts = prompts
        self._profile = profile

    @classmethod
    def load(cls, path: str | Path, *, profile: ModelProfile) -> RowPreparer:
        """Read tokenizer and config of a checkpoint folder; raises `CheckpointError` or `SettingsError`."""
        checkpoint = Checkpoint.read(path)
        prompts = Prompts.load(checkpoint.tokenizer_file, config=checkpoint.config, profile=profile)
        _check_budget(prompts, profile)
        return cls(prompts, profile=profile)

    @property
    def tokenizer_sha256(self) -> str | None:
        """Hex sha-256 of the tokenizer.json in use; None where none was read from a file."""
        return self._prompts.tokenizer_sha256

    def prepare(
        self, row: Row, *, augment: Callable[[Image.Image], Image.Image] | None = None
    ) -> Prepared:
        """Model input of `row`; raises `RowRejected` (`ImageRejected` for its picture).

        Training passes `augment`, which gets the decoded RGB picture.
        """
        if row.image is None:
            self._require_text(row)
            return Prepared(self._ids(row, 0))
        profile = self._profile
        image = decode_image(row.image, upright=profile.upright, background=profile.background)
        patches, grid = image_patches(augment(image) if augment else image, profile=profile)
        return self.with_patches(row, patches, grid)

    def with_patches(self, row: Row, patches: Patches, grid: tuple[int, int]) -> Prepared:
        """`prepare` for a picture that has been cut before (training keeps them); `row.image` is not looked at."""
        return Prepared(self._ids(row, len(patches) // MERGE**2), patches, grid)

    def count(self, row: Row) -> TokenCount:
        """The tokens that `prepare` gives the row, by the header of its picture alone; raises as it does for what
        that shows.
        """
        picture = 0
        if row.image is None:
            self._require_text(row)
        else:
            width, height = picture_size(row.image)  # turned or not: the tokens are as many
            height, width = target_sizes(height, width, profile=self._profile)[-1]
            picture = (height // FACTOR) * (width // FACTOR)
        return TokenCount(len(self._ids(row, picture)) - picture, picture)

    def _ids(self, row: Row, image_tokens: int) -> npt.NDArray[np.int32]:
        ids = self._prompts.ids(
            row.text, image_tokens=image_tokens, instruction=row.instruction, is_query=row.is_query
        )
        return np.array(ids, dtype=np.int32)

    def _require_text(self, row: Row) -> None:
        if row.text is None:
            raise RowRejected("empty", "the row has neither text nor image")
        if self._profile.blank_text == "reject" and not row.text.strip():
            raise RowRejected("empty", "the row has blank text and no image")


def _check_budget(prompts: Prompts, profile: ModelProfile) -> None:
    """The largest image must fit beside the default instruction, or whole tables would be rejected row by row."""
    if not 1 <= profile.min_image_tokens <= profile.max_image_tokens:
        raise SettingsError(
            f"image tokens {profile.min_image_tokens}..{profile.max_image_tokens} are no range from 1 up"
        )
    try:
        prompts.ids(None, image_tokens=profile.max_image_tokens, instruction=None, is_query=False)
    except RowRejected as error:
        raise SettingsError(f"profile {profile.name!r}: {error.detail}") from error
