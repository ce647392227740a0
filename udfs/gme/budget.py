"""Pack rows into model batches under a budget of tokens and vision patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Limits of one model batch, whose rows stand one after another without padding."""

    tokens: int
    patches: int


def pack(tokens: Sequence[int], patches: Sequence[int], *, budget: Budget) -> list[list[int]]:
    """Batches of row numbers, longest rows first, each row exactly once.

    The sums of tokens and of patches keep to the budget in every batch of more than one row; a row that alone exceeds
    it is a batch of its own. Longest first, so that a lack of memory shows at once; in a batch pictures of one size stand
    together.
    """
    order = sorted(range(len(tokens)), key=lambda row: (-tokens[row], -patches[row], row))
    batches: list[list[int]] = []
    used_tokens = used_patches = 0
    for row in order:
        used_tokens += tokens[row]
        used_patches += patches[row]
        if not batches or used_tokens > budget.tokens or used_patches > budget.patches:
            batches.append([])
            used_tokens, used_patches = tokens[row], patches[row]
        batches[-1].append(row)
    for batch in batches:
        batch.sort(key=lambda row: (-patches[row], -tokens[row], row))
    return batches
