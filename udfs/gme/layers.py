"""Layers of the language model and blocks of the vision tower over ragged sequences, made of stock ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from udfs.gme.attention import Attention, Bounds
from udfs.gme.elementwise import Elementwise


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences of T tokens in all: their bounds, and `cos` and `sin` of their positions, float32 (T, head / 2)."""

    bounds: Bounds
    cos: torch.Tensor
    sin: torch.Tensor


Halves = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # total, update, bias left to add


class LanguageLayer(nn.Module):
    """A decoder layer: what it adds to `total` is left for the next norm to add, which reads both anyway."""

    def __init__(self, stock: Any, *, attention: Attention, elementwise: Elementwise) -> None:
        """Takes over the weights of a stock layer; query, key and value, gate and up become one product each."""
        super().__init__()
        heads, mlp = stock.self_attn, stock.mlp
        self.head = heads.head_dim
        self.query_heads = heads.q_proj.out_features // self.head
        self.key_heads = heads.k_proj.out_features // self.head
        self.qkv = _join(heads.q_proj, heads.k_proj, heads.v_proj)
        self.out = _with_values_bias(heads.o_proj, heads.v_proj.bias, self.query_heads)
        self.gate_up = _join(mlp.gate_proj, mlp.up_proj)
        self.down = mlp.down_proj
        _drop_values_bias(self.qkv, heads.v_proj.out_features)
        self.norms = nn.ModuleList([stock.input_layernorm, stock.post_attention_layernorm])
        self._attend = attention
        self._elementwise = elementwise

    def forward(self, hidden: Halves, rows: Ragged) -> Halves:
        """(T, d) → (T, d); the hidden states are the sum of the parts."""
        total, normed = self._norm(0, hidden)
        qkv, bias = self._elementwise.multiply(self.qkv, normed)
        q, k, v = self._turn(qkv, bias, rows)
        return self._rest(total, self._attend(q, k, v, rows.bounds, rows.bounds, True))

    def pool(self, hidden: Halves, rows: Ragged, ends: torch.Tensor) -> Halves:
        """`forward` for the last token of each sequence alone, at `ends` (n,): all that the last layer is asked for."""
        total, normed = self._norm(0, hidden)
        qkv, bias = self._elementwise.multiply(self.qkv, normed)
        q, k, v = self._turn(qkv, bias, rows)
        mixed = self._attend(q[ends], k, v, rows.bounds.one_each(), rows.bounds, False)
        return self._rest(total[ends], mixed)

    def _turn(
        self, qkv: torch.Tensor, bias: torch.Tensor | None, rows: Ragged
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads = qkv.view(len(qkv), -1, self.head)
        bias = None if bias is None else bias[: -self.key_heads * self.head]
        turned = self._elementwise.rotate(heads[:, : -self.key_heads], bias, rows.cos, rows.sin)
        return (
            turned[:, : self.query_heads],
            turned[:, self.query_heads :],
            heads[:, -self.key_heads :],
        )

    def _rest(self, total: torch.Tensor, mixed: torch.Tensor) -> Halves:
        update, bias = self._elementwise.multiply(self.out, mixed.flatten(1))
        total, normed = self._norm(1, (total, update, bias))
        gate_up, _ = self._elementwise.multiply(self.gate_up, normed)
        return total, *self._elementwise.multiply(self.down, self._elementwise.gated_silu(gate_up))

    def _norm(self, which: int, hidden: Halves) -> tuple[torch.Tensor, torch.Tensor]:
        norm: Any = self.norms[which]
        return self._elementwise.add_rms_norm(*hidden, norm.weight, norm.variance_epsilon)


class VisionBlock(nn.Module):
    """A block of the vision tower, divided in the same way."""

    def __init__(self, stock: Any, *, attention: Attention, elementwise: Elementwise) -> None:
        """Takes over the weights of a stock block."""
        super().__init__()
        self.heads = stock.attn.num_heads
        self.qkv = stock.attn.qkv
        width = self.qkv.in_features
        self.out = _with_values_bias(stock.attn.proj, self.qkv.bias[-width:], self.heads)
        _drop_values_bias(self.qkv, width)
        self.up, self.down = stock.mlp.fc1, stock.mlp.fc2
        self.norms = nn.ModuleList([stock.norm1, stock.norm2])
        self._attend = attention
        self._elementwise = elementwise

    def forward(self, hidden: Halves, pictures: Ragged) -> Halves:
        """(P, d) → (P, d); the hidden states are the sum of the parts."""
        total, normed = self._norm(0, hidden)
        qkv, bias = self._elementwise.multiply(self.qkv, normed)
        heads = qkv.view(len(qkv), 3 * self.heads, -1)
        bias = None if bias is None else bias[: -self.out.in_features]
        turned = self._elementwise.rotate(heads[:, : -self.heads], bias, pictures.cos, pictures.sin)
        q, k, v = turned[:, : self.heads], turned[:, self.heads :], heads[:, -self.heads :]
        mixed = self._attend(q, k, v, pictures.bounds, pictures.bounds, False)
        update, bias = self._elementwise.multiply(self.out, mixed.flatten(1))
        total, normed = self._norm(1, (total, update, bias))
        wide, bias = self._elementwise.multiply(self.up, normed)
        return total, *self._elementwise.multiply(self.down, self._elementwise.activate(wide, bias))

    def _norm(self, which: int, hidden: Halves) -> tuple[torch.Tensor, torch.Tensor]:
        norm: Any = self.norms[which]
        return self._elementwise.add_layer_norm(*hidden, norm.weight, norm.bias, norm.eps)


def _with_values_bias(out: nn.Linear, values_bias: torch.Tensor, heads: int) -> nn.Linear:
    """A layer after attention that adds what the values' bias comes to: the weights of a mean add up to one."""
    head = out.in_features // heads
    groups = len(values_bias) // head
    spread = values_bias.double().view(groups, 1, head).expand(-1, heads // groups, -1).flatten()
    bias = out.weight.double() @ spread
    if out.bias is not None:
        bias += out.bias.double()
    out.bias = nn.Parameter(bias.to(out.weight.dtype), requires_grad=False)
    return out


def _drop_values_bias(qkv: nn.Linear, width: int) -> None:
    qkv.bias[-width:] = 0


def _join(*parts: nn.Linear) -> nn.Linear:
    """One layer whose output is that of the parts side by side."""
    joined = nn.Linear(1, 1, bias=parts[0].bias is not None)
    joined.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
    if parts[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
    joined.out_features, joined.in_features = joined.weight.shape
    return joined
