"""Two training processes make the weights of one."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing

from tests.unit.training.conftest import pairs_file, train_spec  # noqa: F401
from tests.unit.training.test_loop import curve, weights
from udfs.training.loop import train
from udfs.training.spec import ModelOptions

pytestmark = pytest.mark.cluster


def _process(rank, spec, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    train(spec)


def test_two_processes_make_the_weights_of_one(train_spec, tmp_path):  # noqa: F811
    """With the gradient cache, and one direction a batch, so that the tokens differ from rank to rank."""
    options = replace(ModelOptions(), gradient_cache=True, token_budget=128)
    pairs = replace(train_spec.pairs, homogeneous=True)
    base = replace(train_spec, steps=4, batch=6, model=options, pairs=pairs)
    one = replace(base, output=str(tmp_path / "one"), work=str(tmp_path / "w1"))
    two = replace(base, output=str(tmp_path / "two"), work=str(tmp_path / "w2"), processes=2)
    train(one)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    multiprocessing.spawn(_process, args=(two, port), nprocs=2)
    single, double = weights(one), weights(two)
    start = load_file(Path(train_spec.base) / "model.safetensors")
    for name, value in single.items():
        assert torch.allclose(double[name], value, rtol=0, atol=1e-5), name
    assert max((single[name] - start[name]).abs().max() for name in single) > 1e-3
    losses = [[row["loss"] for row in curve(spec)] for spec in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
