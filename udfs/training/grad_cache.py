"""Gradient caching: large contrastive batches with the activations of one model batch in memory. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

Batch = TypeVar("Batch")


def encode_batches(
    encode: Callable[[Batch], torch.Tensor], batches: Sequence[Batch], *, cached: bool
) -> torch.Tensor:
    """Vectors (n, d) of all batches, one after another, with gradients.

    `cached`: only the vectors are kept; the backward pass takes the loss's gradient by them, encodes one batch
    again, descends into it and forgets it (GradCache, Gao et al., 2021). Same gradients, twice the forward work,
    and memory that does not grow with the number of rows.
    """
    if not cached or not torch.is_grad_enabled():
        return torch.cat([encode(batch) for batch in batches])
    return torch.cat([checkpoint(encode, batch, use_reentrant=False) for batch in batches])
