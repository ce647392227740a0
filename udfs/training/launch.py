"""The function that a training process starts with; importing it imports no torch."""

from __future__ import annotations

import logging

from udfs.training.spec import TrainSpec


def train_process(spec: TrainSpec) -> None:
    """Run this process's part of a training; handed to TorchDistributor."""
    from udfs.training.loop import train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    train(spec)
