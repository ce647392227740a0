"""What a build will cost, from a trial on one executor; and afterwards, what it did cost."""

from __future__ import annotations

from dataclasses import dataclass

import pydantic

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from udfs.errors import IndexDataError
from udfs.index.cost import CostEstimate, estimate, format_bytes, format_seconds
from udfs.index.probe import Speed, probe_batches
from udfs.specs import IndexSpec


@dataclass(frozen=True)
class Prediction:
    """One figure of a build: core seconds, or bytes where `in_bytes`."""

    name: str
    predicted: float
    measured: float
    in_bytes: bool

    def __str__(self) -> str:
        shown = [
            format_bytes(int(value)) if self.in_bytes else format_seconds(value)
            for value in (self.measured, self.predicted)
        ]
        return f"{self.name} {shown[0]} (predicted {shown[1]})"


def predict_cost(lake: Lake, spec: IndexSpec, *, rows: int) -> CostEstimate:
    """The cost of an index of `rows` vectors: every step is tried for a moment in one task, on an executor's machine."""
    missing = IndexDataError("the trial of this machine's speed gave no figures; run it again")
    row = on_executors(lake.spark.range(0, 1, 1, 1), probe_batches, spec=spec).one_row(missing)
    speed = pydantic.TypeAdapter(Speed).validate_json(row.speed)
    return estimate(spec.plan, rows, spec.dim, speed=speed)


def compare_cost(run: Run, cost: CostEstimate, *, encoded_rows: int) -> tuple[Prediction, ...]:
    """Predicted against measured for what this run did itself; the predicted figures are put beside the others of `run`.

    Nothing is said of training or shards that were kept from an earlier build.
    """
    encode = cost.encode_seconds * encoded_rows / max(cost.rows, 1)
    found = []
    for step, seconds, peak in (
        ("train", cost.train_seconds, cost.train_peak_bytes),
        ("encode", encode, cost.encode_peak_bytes),
    ):
        if f"tasks.{step}" not in run.seconds:
            continue
        run.add_seconds(f"tasks.{step}.predicted", seconds)
        run.counts[f"{step}_peak_predicted_bytes"] = peak
        measured = run.seconds[f"tasks.{step}"], run.counts[f"{step}_peak_bytes"]
        found.append(Prediction(f"{step}, core seconds", seconds, measured[0], False))
        found.append(Prediction(f"{step}, memory of a task", peak, measured[1], True))
    return tuple(found)
