"""The MLflow pyfunc of a registered model: loads its checkpoint by reference, for small uses."""

from __future__ import annotations

from typing import Any

import mlflow

from udfs.gme import Encoder, Row
from udfs.specs import ModelProfile


class GmePyfunc(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """predict(frame) with columns text, image (bytes), instruction, is_query (all optional)."""

    def load_context(self, context: Any) -> None:
        """Load the encoder that the model configuration names, on a GPU where there is one."""
        config = context.model_config
        self.encoder = Encoder.load(
            config["checkpoint"],
            dtype=config["dtype"],
            device="auto",
            profile=ModelProfile(**config["profile"]),
        )

    # MLflow reads a type hint on model_input as a schema of one column and warns; pandas frames have their own.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """One vector (list of float) per row; rows that cannot be embedded raise ValueError with all reasons."""
        rows = [
            Row(
                text=record.get("text"),
                image=record.get("image"),
                instruction=record.get("instruction"),
                is_query=bool(record.get("is_query", False)),
            )
            for record in model_input.to_dict("records")
        ]
        batch = self.encoder.encode(rows)
        bad = {i: error for i, error in enumerate(batch.errors) if error is not None}
        if bad:
            raise ValueError(f"rows that cannot be embedded: {bad}")
        return [vector.tolist() for vector in batch.vectors]


mlflow.models.set_model(GmePyfunc())
