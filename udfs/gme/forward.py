"""The forward pass over one ragged batch: rows stand one after another, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize

from udfs.errors import CheckpointError
from udfs.gme.attention import choose_attention
from udfs.gme.elementwise import choose_elementwise
from udfs.gme.layers import Halves, LanguageLayer, Ragged, VisionBlock
from udfs.gme.patches import MERGE
from udfs.gme.prepare import Prepared
from udfs.gme.vision import FoldedPatchEmbed

_KNOWN = {
    "hidden_act": "silu",
    "vision_config.hidden_act": "quick_gelu",
    "use_sliding_window": False,
}


@dataclass(frozen=True, eq=False)
class Answer:
    """Vectors of a batch in its rows' order, float32 (n, d), which a GPU may still be at work on."""

    vectors: torch.Tensor
    ready: torch.cuda.Event | None

    def take(self) -> npt.NDArray[np.float32]:
        """The vectors, once they are there."""
        if self.ready is not None:
            self.ready.synchronize()
        vectors: npt.NDArray[np.float32] = self.vectors.numpy()
        return vectors


class ForwardPass:
    """A stock model with the layers of `udfs.gme.layers` in place of its own."""

    def __init__(self, model: Any, *, device: torch.device) -> None:
        """`model`: a stock `Qwen2VLModel` on `device`, whose layers are taken over and replaced."""
        _require_known(model.config)
        self._device = device
        self._language, self._vision = model.language_model, model.visual
        self.dim = int(model.config.text_config.hidden_size)
        self.vocabulary = int(model.get_input_embeddings().num_embeddings)
        self.image_token = int(model.config.image_token_id)
        self._attention = choose_attention(device, model.dtype)
        elementwise = choose_elementwise(device, model.dtype)
        for layers, kind in (
            (self._language.layers, LanguageLayer),
            (self._vision.blocks, VisionBlock),
        ):
            for number, stock in enumerate(layers):
                layers[number] = kind(stock, attention=self._attention, elementwise=elementwise)
        self._vision.patch_embed = FoldedPatchEmbed.of(self._vision.patch_embed)

    @torch.inference_mode()
    def __call__(self, rows: Sequence[Prepared]) -> Answer:
        """Embed rows; positions count 0..L-1 for image tokens too, as in GME's own code."""
        lengths = [row.tokens for row in rows]
        ids = np.concatenate([row.input_ids for row in rows])
        bounds = self._attention.divide(lengths, causal=True)
        hidden = self._language.embed_tokens(self._place([row.input_ids for row in rows]))
        if any(row.patches is not None for row in rows):
            at = self._place([np.flatnonzero(ids == self.image_token)])
            hidden[at] = self._see([row for row in rows if row.patches is not None])
        rotary = self._language.rotary_emb
        positions = self._place([np.arange(length, dtype=np.int32) for length in lengths])
        angles = positions.float()[:, None] * rotary.inv_freq.float()
        scale = rotary.attention_scaling
        ragged = Ragged(bounds, angles.cos() * scale, angles.sin() * scale)
        halves: Halves = (hidden, torch.zeros_like(hidden), None)
        ends = self._place([bounds.last_tokens().numpy()])
        *layers, last = self._language.layers
        for layer in layers:
            halves = layer(halves, ragged)
        pooled = self._language.norm(_add(last.pool(halves, ragged, ends)))
        return self._answer(normalize(pooled.float(), dim=-1))

    def _see(self, rows: Sequence[Prepared]) -> torch.Tensor:
        """Embeddings of the image tokens of rows that all have a picture, one after another: (P / 4, d)."""
        patches = [row.patches for row in rows if row.patches is not None]
        grids = [row.grid for row in rows if row.grid is not None]
        bounds = self._attention.divide([len(cut) for cut in patches], causal=False)
        at = self._place([_patch_positions(grid) for grid in grids])
        rotary = self._vision.rotary_pos_emb
        angles = (at.float()[:, :, None] * rotary.inv_freq.float()).flatten(1)
        ragged = Ragged(bounds, angles.cos(), angles.sin())
        embed = self._vision.patch_embed
        hidden = embed(embed.normalise(self._place(patches)))
        halves: Halves = (hidden, torch.zeros_like(hidden), None)
        for block in self._vision.blocks:
            halves = block(halves, ragged)
        seen: torch.Tensor = self._vision.merger(_add(halves))
        return seen

    def _place(self, pieces: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
        """Arrays one after another on the device; a GPU that works on the last batch is not waited for."""
        if self._device.type == "cpu":
            return torch.from_numpy(np.concatenate(pieces))
        shape = (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
        kind = torch.from_numpy(pieces[0]).dtype
        here = torch.empty(shape, dtype=kind, pin_memory=True)
        np.concatenate(pieces, out=here.numpy())
        return here.to(self._device, non_blocking=True)

    def _answer(self, vectors: torch.Tensor) -> Answer:
        if self._device.type != "cuda":
            return Answer(vectors, None)
        here = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        here.copy_(vectors, non_blocking=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        return Answer(here, ready)


def _require_known(config: Any) -> None:
    """CheckpointError unless the layers compute what the config asks for."""
    found = {
        "hidden_act": config.text_config.hidden_act,
        "vision_config.hidden_act": config.vision_config.hidden_act,
        "use_sliding_window": config.text_config.use_sliding_window,
    }
    if found != _KNOWN:
        raise CheckpointError(f"config.json is not GME's architecture: {found}, not {_KNOWN}")


def _add(hidden: Halves) -> torch.Tensor:
    total, update, bias = hidden
    return total + (update if bias is None else update + bias)


@lru_cache(maxsize=256)
def _patch_positions(grid: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Row and column of each patch, int32 (P, 2), in the order of `image_patches`: those of a token stand together."""
    rows, columns = grid
    at = np.indices(grid, dtype=np.int32).reshape(2, rows // MERGE, MERGE, columns // MERGE, MERGE)
    return np.ascontiguousarray(at.transpose(1, 3, 2, 4, 0).reshape(-1, 2))
