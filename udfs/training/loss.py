"""InfoNCE over cosine similarity with in-batch and hard negatives. Imports torch; only training processes load it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from udfs.training.plan import Term
from udfs.training.spec import Direction


class Loss(NamedTuple):
    """`total` to descend; share of a direction's queries whose best candidate is the right one; mean loss by direction."""

    total: torch.Tensor
    accuracy: dict[Direction, float]
    by_direction: dict[Direction, float]


def contrastive_loss(
    vectors: torch.Tensor,
    *,
    ids: torch.Tensor,
    terms: list[Term],
    temperature: float,
    valid: torch.Tensor | None = None,
) -> Loss:
    """Weighted sum of the mean InfoNCE of each term's queries (van den Oord et al., 2018; GME section 4).

    `vectors` float32 (n, d), L2-normalised rows of the whole step; `ids` int64 (n,), as in `Plan`; `valid` bool (n,):
    rows that could be read. A query is left out where it or its target is not valid.
    """
    total = vectors.sum() * 0.0  # has a gradient even where no term is left
    usable = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    accuracy: dict[Direction, float] = {}
    by_direction: dict[Direction, float] = {}
    for term in terms:
        scores, labels = _scores(vectors, ids, usable, term)
        if not len(labels):
            continue
        loss = functional.cross_entropy(scores / temperature, labels)
        total = total + term.weight * loss
        hits = (scores.detach().argmax(dim=1) == labels).float().mean()
        accuracy[term.direction] = float(hits)
        by_direction[term.direction] = float(loss.detach())
    return Loss(total, accuracy, by_direction)


def _scores(
    vectors: torch.Tensor, ids: torch.Tensor, usable: torch.Tensor, term: Term
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines (queries, candidates), -inf where a candidate is no negative, and the column of each target."""
    queries, targets, candidates = (
        torch.from_numpy(rows).to(vectors.device)
        for rows in (term.queries, term.targets, term.candidates)
    )
    kept = usable[queries] & usable[targets]
    queries, targets = queries[kept], targets[kept]
    scores = vectors[queries] @ vectors[candidates].T
    is_target = candidates[None, :] == targets[:, None]
    shown = ids[candidates][None, :]
    right = (shown == ids[targets][:, None]) | (shown == ids[queries][:, None])
    no_negative = (right | ~usable[candidates][None, :]) & ~is_target
    return scores.masked_fill(no_negative, -torch.inf), is_target.long().argmax(dim=1)
