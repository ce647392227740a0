"""What a layer does between its matrix products, in plain torch; `udfs.gme.kernels` is the same for GPUs."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

Norms = tuple[torch.Tensor, torch.Tensor]
log = logging.getLogger("gme_lake")


def add_rms_norm(
    total: torch.Tensor,
    update: torch.Tensor,
    bias: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
) -> Norms:
    """`total + update + bias` (T, d) and its RMS norm."""
    total = total + (update if bias is None else update + bias)
    wide = total.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return total, weight * wide.to(total.dtype)


def add_layer_norm(
    total: torch.Tensor,
    update: torch.Tensor,
    bias: torch.Tensor | None,
    weight: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
) -> Norms:
    """`total + update + bias` (T, d) and its layer norm."""
    total = total + (update if bias is None else update + bias)
    return total, functional.layer_norm(total, weight.shape, weight, shift, eps)


def rotate(
    heads: torch.Tensor, bias: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """Rotary positions: `heads` (T, n, d) plus `bias` (n x d) turned by angles of float32 `cos` and `sin` (T, d / 2)."""
    if bias is not None:
        heads = heads + bias.view(heads.shape[1:])
    first, second = heads.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(heads.dtype)


def gated_silu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of (T, 2 d), gate first → (T, d)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def quick_gelu(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x + bias` (T, d) times the sigmoid of 1.702 times it."""
    x = x if bias is None else x + bias
    return x * torch.sigmoid(1.702 * x)


@dataclass(frozen=True)
class Elementwise:
    """The functions above or their likes.

    `late_bias`: they add the biases of the products before them, which a GPU does more cheaply there than in the product.
    """

    add_rms_norm: Callable[..., Norms]
    add_layer_norm: Callable[..., Norms]
    rotate: Callable[..., torch.Tensor]
    gated_silu: Callable[[torch.Tensor], torch.Tensor]
    activate: Callable[..., torch.Tensor]
    late_bias: bool

    def multiply(
        self, layer: torch.nn.Linear, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A layer's product, and the bias that is left to add."""
        if self.late_bias:
            return functional.linear(x, layer.weight), layer.bias
        return functional.linear(x, layer.weight, layer.bias), None


PLAIN = Elementwise(add_rms_norm, add_layer_norm, rotate, gated_silu, quick_gelu, late_bias=False)


def choose_elementwise(device: torch.device, dtype: torch.dtype) -> Elementwise:
    """Kernels on a GPU in half precision, where Triton and the C compiler that it needs are there; else plain torch."""
    if device.type != "cuda" or dtype == torch.float32:
        return PLAIN
    compiler = any(shutil.which(name) for name in ("gcc", "clang", "cc"))
    if not (importlib.util.find_spec("triton") and compiler):
        log.warning("without Triton and a C compiler the model runs at two thirds of its speed")
        return PLAIN
    import udfs.gme.kernels as kernels  # imports Triton

    return Elementwise(
        kernels.add_rms_norm,
        kernels.add_layer_norm,
        kernels.rotate,
        kernels.gated_silu,
        kernels.quick_gelu,
        late_bias=True,
    )
