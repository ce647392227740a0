"""GME's forward pass with gradients: the numbers of `udfs.gme.model`, in fewer and larger kernels. Imports torch.

Three exact savings over the stock modules' own forward: pictures of one size go through the vision tower's attention
together, the two frames of a still picture through the patch embedding once, and the last layer runs for pooled
positions only. The stock modules keep the weights, so adapters and checkpoints work as they do for the stock model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from udfs.gme.patches import IMAGE_MEAN, IMAGE_STD, MERGE
from udfs.training.spec import ModelOptions

Rotary = tuple[torch.Tensor, torch.Tensor]


def rotate(x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Rotary position embedding of (…, d) by halves (Su et al., 2021) in float32; `rotary` is (…, d / 2) each."""
    cos, sin = rotary
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """Attention of (b, h, l, d); on a CPU in float32: the bfloat16 backward of its kernel is slower than all it saves."""
    if query.device.type == "cpu":
        query, key, value = query.float(), key.float(), value.float()
    else:
        query, key = query.to(value.dtype), key.to(value.dtype)
    with torch.autocast(query.device.type, enabled=False):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=True
        )


class Forward:
    """Vectors of model batches with a stock `Qwen2VLModel` that holds the weights."""

    def __init__(self, model: Any, options: ModelOptions) -> None:
        self._visual = model.visual
        self._language = model.language_model
        self._options = options
        self._image_pad = int(model.config.image_token_id)
        self._vision_rotary = lru_cache(maxsize=64)(self._make_vision_rotary)

    def vectors(
        self,
        ids: torch.Tensor,
        lengths: torch.Tensor,
        pictures: Sequence[tuple[torch.Tensor, tuple[int, int]]],
    ) -> torch.Tensor:
        """L2-normalised float32 (b, d) of right-padded `ids` int64 (b, l).

        `pictures` are those of the rows in order: uint8 patches (p, 3, 14, 14) and grid.
        """
        hidden = self._language.embed_tokens(ids)
        if pictures:
            pixels = self._pictures(pictures).to(hidden.dtype)
            hidden = hidden.masked_scatter((ids == self._image_pad)[..., None], pixels)
        pooled = self._pool(hidden, lengths)
        return functional.normalize(self._language.norm(pooled).float(), dim=-1)

    def _pictures(self, pictures: Sequence[tuple[torch.Tensor, tuple[int, int]]]) -> torch.Tensor:
        """Image tokens (sum of p / 4, hidden) in the order of `pictures`; equal grids run together."""
        groups: dict[tuple[int, int], list[int]] = {}
        for number, (_, grid) in enumerate(pictures):
            groups.setdefault(grid, []).append(number)
        found: dict[int, torch.Tensor] = {}
        for grid, numbers in groups.items():
            tokens = self._tower(torch.stack([pictures[n][0] for n in numbers]), grid)
            found |= dict(zip(numbers, tokens, strict=True))
        return torch.cat([found[number] for number in range(len(pictures))])

    def _tower(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Image tokens (n, p / 4, hidden) of uint8 patches (n, p, 3, 14, 14) of one grid."""
        count, size = patches.shape[:2]
        mean = torch.tensor(IMAGE_MEAN, device=patches.device).mul(255).view(1, 1, 3, 1, 1)
        scale = torch.tensor(IMAGE_STD, device=patches.device).mul(255).view(1, 1, 3, 1, 1)
        pixels = patches.float().sub_(mean).div_(scale).flatten(2)
        weight = self._visual.patch_embed.proj.weight
        hidden = functional.linear(pixels, weight.sum(dim=2).flatten(1).to(pixels.dtype))
        rotary = self._vision_rotary(grid, hidden.device)
        for block in self._visual.blocks:
            hidden = self._layer(self._block, block, hidden, rotary)
        tokens: torch.Tensor = self._visual.merger(hidden.flatten(0, 1))
        return tokens.view(count, size // MERGE**2, -1)

    @staticmethod
    def _block(block: Any, hidden: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        count, size, _ = hidden.shape
        attention = block.attn
        packed = attention.qkv(block.norm1(hidden)).view(count, size, 3, attention.num_heads, -1)
        both, value = packed.permute(2, 0, 3, 1, 4).split((2, 1))
        query, key = rotate(both, rotary)
        mixed = attend(query, key, value[0])
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(count, size, -1))
        result: torch.Tensor = hidden + block.mlp(block.norm2(hidden))
        return result

    def _make_vision_rotary(self, grid: tuple[int, int], device: torch.device) -> Rotary:
        from transformers.vision_utils import get_vision_position_ids

        positions = get_vision_position_ids(torch.tensor([(1, *grid)], device=device), MERGE)
        cos, sin = self._visual.rotary_pos_emb(torch.empty(0, device=device), positions)
        return _half(cos), _half(sin)

    def _pool(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Hidden states (b, d) before the final norm, at the pooled position or their mean over the row."""
        width = hidden.shape[1]
        steps = torch.arange(width, device=hidden.device)
        valid = steps[None, :] < lengths[:, None]
        positions = steps.expand(3, 1, width)
        cos, sin = self._language.rotary_emb(torch.empty(0, device=hidden.device), positions)
        rotary = (_half(cos[:, None]), _half(sin[:, None]))  # (1, 1, l, head / 2)
        causal = self._options.attention == "causal"
        mask = None if causal else valid[:, None, None, :]
        last_only = self._options.pooling == "last"
        layers = list(self._language.layers)
        for layer in layers[:-1] if last_only else layers:
            hidden = self._layer(self._decoder, layer, hidden, rotary, mask, causal)
        if last_only:
            return self._last_layer(layers[-1], hidden, rotary, lengths)
        share = valid / lengths[:, None]
        return (hidden * share[..., None]).sum(dim=1)

    def _layer(self, function: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        if self._options.layer_checkpointing and torch.is_grad_enabled():
            again: torch.Tensor = checkpoint(function, *arguments, use_reentrant=False)
            return again
        return function(*arguments)

    @staticmethod
    def _decoder(
        layer: Any, hidden: torch.Tensor, rotary: Rotary, mask: torch.Tensor | None, causal: bool
    ) -> torch.Tensor:
        normed = layer.input_layernorm(hidden)
        attention = layer.self_attn
        query, key, value = (
            _heads(project(normed), attention.head_dim)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = attend(rotate(query, rotary), rotate(key, rotary), value, mask=mask, causal=causal)
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        result: torch.Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return result

    @staticmethod
    def _last_layer(
        layer: Any, hidden: torch.Tensor, rotary: Rotary, lengths: torch.Tensor
    ) -> torch.Tensor:
        """The layer at the last token of each row alone; it sees its whole row, causal or not."""
        rows, last = torch.arange(len(hidden), device=hidden.device), lengths - 1
        normed = layer.input_layernorm(hidden)
        attention = layer.self_attn
        key, value = (
            _heads(project(normed), attention.head_dim)
            for project in (attention.k_proj, attention.v_proj)
        )
        query = _heads(attention.q_proj(normed[rows, last])[:, None], attention.head_dim)
        cos, sin = (part[0, 0, last][:, None, None] for part in rotary)
        seen = torch.arange(hidden.shape[1], device=hidden.device)[None, :] < lengths[:, None]
        mixed = attend(
            rotate(query, (cos, sin)), rotate(key, rotary), value, mask=seen[:, None, None, :]
        )
        pooled = hidden[rows, last] + attention.o_proj(mixed.flatten(1))
        result: torch.Tensor = pooled + layer.mlp(layer.post_attention_layernorm(pooled))
        return result


def _half(angles: torch.Tensor) -> torch.Tensor:
    """The stock tables hold every value twice."""
    return angles.float().chunk(2, dim=-1)[0]


def _heads(states: torch.Tensor, head: int) -> torch.Tensor:
    """(b, l, h x d) → (b, h, l, d)."""
    return states.view(*states.shape[:-1], -1, head).transpose(1, 2)
