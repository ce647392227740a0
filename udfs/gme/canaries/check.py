"""A loaded model embeds the canaries of its registration again: the lowest cosine, or why it must not serve."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from udfs.errors import CanaryError
from udfs.gme.canaries.environment import find_differences, format_environment
from udfs.gme.canaries.record import Canaries, read_canaries
from udfs.gme.encoder import Encoder
from udfs.gme.prepare import EncodedBatch
from udfs.specs import CanarySpec

_SHOWN = 5


@dataclass(frozen=True)
class Agreement:
    """How near vectors come to those of the canaries: the lowest cosine of those that both have, and what is wrong."""

    lowest: float
    faults: tuple[str, ...]


def compare(canaries: Canaries, made: EncodedBatch, *, cosine: float) -> Agreement:
    """Vectors with a lower cosine than `cosine` are faults, and so is an input that has a vector on one side alone."""
    faults: list[tuple[float, str]] = []
    lowest = 1.0
    for number, (name, status) in enumerate(zip(canaries.rows, canaries.statuses, strict=True)):
        error = made.errors[number]
        found = "ok" if error is None else error.partition(":")[0]
        if found != status:
            faults.append((-1.0, f"{name!r} is {error or 'ok'} where {status} is right"))
        elif status == "ok":
            one, other = (v[number].astype(np.float64) for v in (canaries.vectors, made.vectors))
            near = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
            lowest = min(lowest, near)
            if near < cosine:
                faults.append((near, f"{name!r} has cosine {near:.6f}"))
    return Agreement(lowest, tuple(said for _, said in sorted(faults)))


def check_canaries(spec: CanarySpec, encoder: Encoder, *, environment: Mapping[str, str]) -> float:
    """The lowest cosine of a loaded model with the canaries of `spec`.

    Raises CanaryError, which names both environments, where one is below `spec.cosine`, or another input than at the
    registration has no vector; ServingError where the canaries cannot be read.
    """
    canaries = read_canaries(spec)
    found = compare(canaries, encoder.encode(canaries.rows.values()), cosine=spec.cosine)
    if found.faults:
        raise CanaryError(_refusal(found, canaries, spec=spec, environment=environment))
    return found.lowest


def _refusal(
    found: Agreement, canaries: Canaries, *, spec: CanarySpec, environment: Mapping[str, str]
) -> str:
    more = f", and {len(found.faults) - _SHOWN} more" if len(found.faults) > _SHOWN else ""
    differing = ", ".join(find_differences(canaries.environment, environment)) or "nothing named"
    return (
        f"the model makes other vectors on {socket.gethostname()} than where it was registered: of "
        f"{len(canaries.rows)} canaries {'; '.join(found.faults[:_SHOWN])}{more} (model.canary_cosine={spec.cosine:g}). "
        f"Registered with {format_environment(canaries.environment)}; here {format_environment(environment)}; they differ "
        f"in {differing}. Install here what it was registered with, or register it again in an environment like this "
        "one (gme-lake register-model; vectors made before stay as they are), or set model.canary_cosine lower to take "
        "such vectors"
    )
