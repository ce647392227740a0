"""The first layer of the vision tower, for single pictures: uint8 patches in, embeddings out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from udfs.gme.patches import IMAGE_MEAN, IMAGE_STD, PATCH


class FoldedPatchEmbed(nn.Module):
    """Patch embedding of a still picture.

    The stock layer is a 3-D convolution over two frames; a picture is the same frame twice, so the sum of the two
    frames' weights on one frame gives the same numbers with half the work and no doubled pixels.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    @classmethod
    def of(cls, stock: Any) -> FoldedPatchEmbed:
        """Fold a stock layer whose `proj` has weights (D, 3, 2, 14, 14)."""
        return cls(stock.proj.weight.float().sum(dim=2).flatten(1).to(stock.proj.weight.dtype))

    def normalise(self, patches: torch.Tensor) -> torch.Tensor:
        """uint8 patches (P, 3, 14, 14) → normalised pixels (P, 588) in the weights' dtype, on their device."""
        mean = torch.tensor(IMAGE_MEAN, device=patches.device).mul(255).view(1, 3, 1, 1)
        scale = (
            torch.tensor(IMAGE_STD, device=patches.device).mul(255).reciprocal().view(1, 3, 1, 1)
        )
        pixels = patches.to(torch.float32).sub_(mean).mul_(scale)
        return pixels.to(self.weight.dtype).view(-1, 3 * PATCH * PATCH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (P, 588) → embeddings (P, D)."""
        return nn.functional.linear(pixels, self.weight)
