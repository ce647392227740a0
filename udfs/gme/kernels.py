"""The functions of `udfs.gme.elementwise` as Triton kernels: each reads its input once and writes its output once.

Between a model's matrix products a GPU does nothing but move numbers. All compute in float32 and round once.
"""

# Triton compiles what is marked `jit`: no annotations there but its own, and its constants in capitals.
# ruff: noqa: ANN001, ANN202, N803
# mypy: disable-error-code="no-untyped-def, untyped-decorator, misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_COLUMNS = 1024  # of a pointwise kernel's program


@triton.jit
def _add_norm(
    total, update, bias, weight, shift, summed, normed, width, eps,
    HAS_BIAS: tl.constexpr, CENTRED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, BLOCK)
    inside = at < width
    row = tl.program_id(0).to(tl.int64) * width + at
    x = tl.load(total + row, inside, 0.0).to(tl.float32)
    x += tl.load(update + row, inside, 0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + at, inside, 0.0).to(tl.float32)
    tl.store(summed + row, x, inside)
    if CENTRED:
        x = tl.where(inside, x - tl.sum(x) / width, 0.0)
    x = x * tl.rsqrt(tl.sum(x * x) / width + eps) * tl.load(weight + at, inside, 0.0).to(tl.float32)
    if CENTRED:
        x += tl.load(shift + at, inside, 0.0).to(tl.float32)
    tl.store(normed + row, x, inside)


@triton.jit
def _rotate(
    x, bias, cos, sin, out, stride, heads, half,
    HAS_BIAS: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (at < half)
    first = head * 2 * half + at
    second = first + half
    c = tl.load(cos + token * half + at, at < half, 0.0)
    s = tl.load(sin + token * half + at, at < half, 0.0)
    a = tl.load(x + token * stride + first, inside, 0.0).to(tl.float32)
    b = tl.load(x + token * stride + second, inside, 0.0).to(tl.float32)
    if HAS_BIAS:
        a += tl.load(bias + first, inside, 0.0).to(tl.float32)
        b += tl.load(bias + second, inside, 0.0).to(tl.float32)
    row = token * heads * 2 * half
    tl.store(out + row + first, a * c - b * s, inside)
    tl.store(out + row + second, b * c + a * s, inside)


@triton.jit
def _gated_silu(gate_up, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * 2 * width + at, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, inside, 0.0).to(tl.float32)
    tl.store(out + row * width + at, gate * tl.sigmoid(gate) * up, inside)


@triton.jit
def _quick_gelu(x, bias, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row + at, inside, 0.0).to(tl.float32)
    value += tl.load(bias + at, inside, 0.0).to(tl.float32)
    tl.store(out + row + at, value * tl.sigmoid(1.702 * value), inside)


def add_rms_norm(
    total: torch.Tensor,
    update: torch.Tensor,
    bias: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As in `udfs.gme.elementwise`, for contiguous tensors."""
    return _norm(total, update, bias, weight, None, eps)


def add_layer_norm(
    total: torch.Tensor,
    update: torch.Tensor,
    bias: torch.Tensor | None,
    weight: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As in `udfs.gme.elementwise`, for contiguous tensors."""
    return _norm(total, update, bias, weight, shift, eps)


def rotate(
    heads: torch.Tensor, bias: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """As in `udfs.gme.elementwise`; the heads of a token stand together, tokens may stand apart."""
    tokens, count, width = heads.shape
    out = heads.new_empty(heads.shape)
    half = width // 2
    kernel: Any = _rotate[(tokens,)]
    kernel(
        heads, bias, cos, sin, out, heads.stride(0), count, half,
        HAS_BIAS=bias is not None, HEADS=triton.next_power_of_2(count),
        HALF=triton.next_power_of_2(half),
    )  # fmt: skip
    return out


def gated_silu(gate_up: torch.Tensor) -> torch.Tensor:
    """As in `udfs.gme.elementwise`, for contiguous tensors."""
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((tokens, width))
    kernel: Any = _gated_silu[(tokens, triton.cdiv(width, _COLUMNS))]
    kernel(gate_up, out, width, BLOCK=_COLUMNS)
    return out


def quick_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """As in `udfs.gme.elementwise`, for contiguous tensors."""
    out = torch.empty_like(x)
    kernel: Any = _quick_gelu[(len(x), triton.cdiv(x.shape[1], _COLUMNS))]
    kernel(x, bias, out, x.shape[1], BLOCK=_COLUMNS)
    return out


def _norm(
    total: torch.Tensor,
    update: torch.Tensor,
    bias: torch.Tensor | None,
    weight: torch.Tensor,
    shift: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, width = total.shape
    summed, normed = torch.empty_like(total), torch.empty_like(total)
    kernel: Any = _add_norm[(tokens,)]
    kernel(
        total, update, bias, weight, shift, summed, normed, width, eps,
        HAS_BIAS=bias is not None, CENTRED=shift is not None, BLOCK=triton.next_power_of_2(width),
    )  # fmt: skip
    return summed, normed
