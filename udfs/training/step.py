"""One optimiser step over all processes: encode, gather, loss, descend. Imports torch; only training processes load it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import distributed

from udfs.errors import SettingsError
from udfs.gme.prepare import Prepared
from udfs.training.loss import Loss, contrastive_loss
from udfs.training.plan import Plan
from udfs.training.spec import OptimiserOptions


@dataclass(frozen=True)
class Team:
    """The processes of a training and this one's number among them."""

    rank: int = 0
    world: int = 1

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            distributed.barrier()

    def agree(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.world == 1:
            return value
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"  # NCCL takes no other
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(shared, src=0)
        return float(shared)


class StepRows(NamedTuple):
    """A step's plan and this process's rows of it: items rank, rank + world, … `valid`: those that could be read."""

    plan: Plan
    rows: list[Prepared]
    valid: list[bool]


def gather(vectors: torch.Tensor, *, count: int, team: Team) -> torch.Tensor:
    """The vectors (count, d) of all processes in the order of the plan; gradients flow to this process's own.

    As every process computes the whole loss, no gradient has to travel back: the sum of the parameters' gradients
    over all processes is that of the loss.
    """
    if team.world == 1:
        return vectors
    widest = -(-count // team.world)
    padded = vectors.new_zeros((widest, vectors.shape[1]))
    padded[: len(vectors)] = vectors.detach()
    parts = [torch.empty_like(padded) for _ in range(team.world)]
    distributed.all_gather(parts, padded)
    whole = torch.stack(parts, dim=1).flatten(0, 1)[:count]
    own = torch.arange(team.rank, count, team.world, device=vectors.device)
    return whole.index_copy(0, own, vectors)


def train_step(
    encoder: Any,
    optimiser: torch.optim.Optimizer,
    step: StepRows,
    *,
    temperature: float,
    clip: float,
    team: Team,
) -> tuple[Loss, float]:
    """Descend once; `encoder` is a TrainableEncoder or DDP around one. Returns the loss and the gradients' norm.

    Raises SettingsError, with the weights as they were, where these are not finite: no later step could mend it.
    """
    count = len(step.plan.items)
    vectors = gather(encoder(step.rows), count=count, team=team)
    flags = torch.tensor(step.valid, dtype=torch.float32, device=vectors.device)[:, None]
    valid = gather(flags, count=count, team=team)[:, 0] > 0
    ids = torch.from_numpy(step.plan.ids).to(vectors.device)
    loss = contrastive_loss(
        vectors, ids=ids, terms=step.plan.terms, temperature=temperature, valid=valid
    )
    optimiser.zero_grad(set_to_none=True)
    (loss.total * team.world).backward()  # type: ignore[no-untyped-call]  # DDP takes the mean over processes
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip))
    if not math.isfinite(norm):
        raise SettingsError(
            f"the training has diverged: its loss is {float(loss.total.detach()):g}, the norm of the gradients {norm:g}; "
            "set train.lr lower, train.warmup longer or train.precision=float32"
        )
    optimiser.step()
    return loss, norm


def make_optimiser(
    parameters: dict[str, torch.nn.Parameter], options: OptimiserOptions
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019); weight decay on matrices only."""
    matrices = [value for value in parameters.values() if value.ndim > 1]
    vectors = [value for value in parameters.values() if value.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=True
    )


def learning_rate(progress: float, options: OptimiserOptions) -> float:
    """The rate at `progress` (0..1) of the training: a linear rise over `warmup`, then the decay to 0."""
    if progress < options.warmup:
        return options.lr * progress / options.warmup
    rest = min(1.0, (progress - options.warmup) / max(1e-9, 1.0 - options.warmup))
    share = 1.0 - rest if options.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))
    return options.lr * share
