"""What one request to a model server may hold: checked when it arrives, before it can harm the requests of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from udfs.errors import ServingError
from udfs.gme.patches import MERGE
from udfs.gme.prepare import Prepared
from udfs.serving.window import Loaded
from udfs.serving.wire import PATCH_SHAPE, REQUEST_BYTES, REQUEST_ROWS
from udfs.specs import ModelProfile, ModelSpec

_FRAME_BYTES = 65_536  # Arrow's schema, offsets and paddings around a request of REQUEST_ROWS rows


@dataclass(frozen=True)
class RequestLimits:
    """Bounds of a request to one loaded model.

    The model itself only fails over what lies outside of them, and after a failure on a GPU it cannot be used again.
    """

    vocabulary: int
    image_token: int
    max_tokens: int

    @classmethod
    def of(cls, loaded: Loaded, profile: ModelProfile) -> RequestLimits:
        """The bounds of a model under the profile that its rows are prepared with."""
        return cls(
            vocabulary=loaded.vocabulary,
            image_token=loaded.image_token,
            max_tokens=profile.max_length,
        )

    def check(self, rows: Sequence[Prepared]) -> None:
        """Raise ServingError that names the first row which the model cannot take, and why."""
        if len(rows) > REQUEST_ROWS:
            raise ServingError(
                f"a request of {len(rows):,} rows was sent; the limit is {REQUEST_ROWS}"
            )
        for number, row in enumerate(rows):
            if found := self._fault(row):
                raise ServingError(
                    f"row {number} of a request of {len(rows)} cannot be what this model's rows are: {found}; "
                    "the worker that sent it has another tokenizer, another profile or another gme-lake"
                )

    def _fault(self, row: Prepared) -> str | None:
        ids = row.input_ids
        if not 1 <= len(ids) <= self.max_tokens:
            return f"it has {len(ids):,} tokens, where 1 to {self.max_tokens:,} are right"
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocabulary:
            wrong = low if low < 0 else high
            return f"token id {wrong} is none of the model's {self.vocabulary:,}"
        places = int(np.count_nonzero(ids == self.image_token))
        if row.grid is not None and any(side < 1 or side % MERGE for side in row.grid):
            return f"a grid of {row.grid} patches cannot be merged {MERGE} by {MERGE}"
        if places != row.patch_count // MERGE**2:
            return f"{row.patch_count:,} patches and {places:,} places for them in the tokens"
        return None


def check_tokenizer(found: str | None, loaded: Loaded, model: ModelSpec) -> None:
    """Raise ServingError unless the sha-256 of a worker's tokenizer.json is that of the loaded model."""
    if found != loaded.tokenizer_sha256:
        raise ServingError(
            f"a worker prepares rows with a tokenizer.json of sha-256 {str(found)[:16]}..., but that of model "
            f"{model.model_id} is {loaded.tokenizer_sha256[:16]}...: was {model.path} changed while it was in use? "
            "Put the registered file back, or register the checkpoint again and restart the application"
        )


def frame_limit(profile: ModelProfile) -> int:
    """The most bytes that a request of rows of this profile can have: its last row may exceed REQUEST_BYTES."""
    patches = profile.max_image_tokens * MERGE**2 * int(np.prod(PATCH_SHAPE))
    return REQUEST_BYTES + patches + 4 * profile.max_length + _FRAME_BYTES
