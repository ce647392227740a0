"""Training checkpoints and the metrics file: what a killed training goes on from. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from udfs.errors import SettingsError
from udfs.training.model import TrainableEncoder
from udfs.training.spec import TrainSpec, spec_key


@dataclass(frozen=True)
class Position:
    """Where a training stands: steps done, and seconds they took."""

    step: int = 0
    seconds: float = 0.0


class TrainingFiles:
    """`last.pt` and `metrics.jsonl` in the work folder; only the first process writes."""

    def __init__(self, spec: TrainSpec) -> None:
        self._folder = Path(spec.work)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._key = spec_key(spec)
        self._checkpoint = self._folder / "last.pt"
        self.metrics = self._folder / "metrics.jsonl"

    def save(
        self, encoder: TrainableEncoder, optimiser: torch.optim.Optimizer, position: Position
    ) -> None:
        """Write everything that the next step depends on; a kill meanwhile leaves the checkpoint before."""
        partial = self._checkpoint.with_suffix(".part")
        state = {
            "key": self._key,
            "step": position.step,
            "seconds": position.seconds,
            "weights": {name: value.detach() for name, value in encoder.trainable().items()},
            "optimiser": optimiser.state_dict(),
            "rng": torch.get_rng_state(),
        }
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def restore(self, encoder: TrainableEncoder, optimiser: torch.optim.Optimizer) -> Position:
        """Load the last checkpoint, if there is one. Raises SettingsError where it is of another training."""
        if not self._checkpoint.is_file():
            return Position()
        state: dict[str, Any] = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        if state["key"] != self._key:
            raise SettingsError(
                f"{self._folder} holds a training with other settings or pairs (key {state['key']}, now {self._key}): "
                "put them back to go on with it, or give another train.work folder"
            )
        with torch.no_grad():
            for name, value in encoder.trainable().items():
                value.copy_(state["weights"][name])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        return Position(state["step"], state["seconds"])

    def drop_metrics_after(self, step: int) -> None:
        """Forget the lines of steps that will be done again."""
        kept = [line for line in self.read_lines() if json.loads(line)["step"] <= step]
        self.metrics.write_text("".join(kept), encoding="utf-8")

    def read_lines(self) -> list[str]:
        """The complete lines of the metrics file; a kill may have cut the last one."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]

    def log(self, position: Position, values: Mapping[str, float]) -> None:
        """Append one line: step, seconds, and the values."""
        line = {"step": position.step, "seconds": round(position.seconds, 3), **values}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
