"""Pack rows into padded model batches, which stock modules and gradients need: rectangles of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PaddedBudget:
    """Limits of one model batch.

    A batch is as wide as its longest row; `waste` bounds the padding that shorter rows may add to it (tokens):
    beyond it another forward pass is cheaper than the padding.
    """

    tokens: int
    patches: int
    waste: int


def pack_padded(
    tokens: Sequence[int], patches: Sequence[int], *, budget: PaddedBudget
) -> list[list[int]]:
    """Batches of row numbers, longest rows first, each row exactly once.

    `rows x longest <= budget.tokens` and `sum of patches <= budget.patches` for every batch of more than one row;
    a row that alone exceeds a budget is a batch of its own. Longest first, so that a lack of memory shows at once.
    """
    order = sorted(range(len(tokens)), key=lambda row: (-tokens[row], -patches[row], row))
    batches: list[list[int]] = []
    width = used_patches = used_tokens = 0
    for row in order:
        size = len(batches[-1]) + 1 if batches else 1
        fits = (
            bool(batches)
            and size * width <= budget.tokens
            and used_patches + patches[row] <= budget.patches
            and size * width - used_tokens - tokens[row] <= budget.waste
        )
        if not fits:
            batches.append([])
            width, used_patches, used_tokens = tokens[row], 0, 0
        batches[-1].append(row)
        used_patches += patches[row]
        used_tokens += tokens[row]
    return batches
