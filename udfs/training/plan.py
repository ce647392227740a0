"""What one step of training looks at: rows to encode, and which of them shall find which."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from udfs.gme.prepare import Prepared
from udfs.training.spec import Direction

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Term:
    """One direction's part of the loss. All arrays are numbers of rows of the step.

    `targets[i]` is the right row for `queries[i]` and stands among the `candidates`.
    """

    direction: Direction
    queries: Ints
    targets: Ints
    candidates: Ints
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Plan:
    """One step over all processes. `items` are opaque to all but the source that made them.

    `ids[i]` names what row i shows: a candidate with the id of a query or of its target is no negative for it.
    """

    items: list[Any]
    ids: Ints
    terms: list[Term]


class TrainingData(Protocol):
    """Training data. `plan` depends on the step only, so that every process knows the whole of it and a resumed run
    goes on as if it had not been stopped."""

    def plan(self, step: int) -> Plan:
        """The rows and terms of a step."""
        ...

    def prepare(self, item: Any) -> Prepared:
        """Model input of one of a plan's items."""
        ...


class Mixture:
    """Steps of two sources in turn, the first with a given share of them."""

    def __init__(
        self, first: TrainingData, second: TrainingData, *, share: float, seed: int
    ) -> None:
        self._sources = (first, second)
        self._share = share
        self._seed = seed

    def plan(self, step: int) -> Plan:
        """The step's plan by one of the sources, which is drawn from (seed, step)."""
        number = int(step_rng(self._seed, step, salt="mixture").random() >= self._share)
        plan = self._sources[number].plan(step)
        return Plan([(number, item) for item in plan.items], plan.ids, plan.terms)

    def prepare(self, item: Any) -> Prepared:
        """Model input of an item, by its own source."""
        number, own = item
        return self._sources[number].prepare(own)


def join_ids(ids: Ints, contents: Ints) -> Ints:
    """`ids` int64 (n,) joined where rows show the same, so that rows with equal `contents` int64 (n,) have one id.

    What two rows show stays the same where either is equal: of all ids that are so joined, each row has the smallest.
    """
    joined = ids.copy()
    groups = [np.unique(names, return_inverse=True)[1] for names in (contents, ids)]
    while True:
        before = joined.copy()
        for group in groups:
            least = np.full(group.max(initial=-1) + 1, np.iinfo(np.int64).max)
            np.minimum.at(least, group, joined)
            joined = least[group]
        if np.array_equal(joined, before):
            return joined


def step_rng(seed: int, step: int, *, salt: str) -> np.random.Generator:
    """Random numbers that depend on (seed, step, salt) only."""
    return np.random.default_rng([seed, step, zlib.crc32(salt.encode())])
