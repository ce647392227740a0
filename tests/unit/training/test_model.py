"""The trainable forward is the encoder's; gradient cache, layer checkpointing and merged adapters change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.training.conftest import PROFILE
from udfs.errors import SettingsError
from udfs.gme import Encoder
from udfs.gme.checkpoint import Checkpoint
from udfs.training.model import TrainableEncoder
from udfs.training.spec import ModelOptions


@pytest.fixture(scope="module")
def prepared(preparer, rows):
    return [preparer.prepare(row) for row in rows]


def gradients(encoder, prepared):
    encoder.zero_grad()
    vectors = encoder(prepared)
    (vectors @ vectors.T).exp().sum().backward()
    return {name: value.grad for name, value in encoder.trainable().items()}


@pytest.mark.parametrize("tokens", [64, 4096])
def test_same_vectors_as_the_encoder(checkpoint, rows, prepared, tokens):
    expected = Encoder.load(checkpoint, profile=PROFILE).encode(rows).vectors
    encoder = TrainableEncoder.load(checkpoint, options=ModelOptions(token_budget=tokens))
    assert np.abs(encoder(prepared).detach().numpy() - expected).max() < 1e-5


def test_every_weight_gets_a_gradient(checkpoint, prepared):
    found = gradients(TrainableEncoder.load(checkpoint, options=ModelOptions()), prepared)
    assert [name for name, value in found.items() if value is None or not value.any()] == []


@pytest.mark.parametrize("option", ["gradient_cache", "layer_checkpointing"])
def test_less_memory_same_gradients(checkpoint, prepared, option):
    options = ModelOptions(token_budget=64)
    plain = gradients(TrainableEncoder.load(checkpoint, options=options), prepared)
    small = replace(options, **{option: True})
    found = gradients(TrainableEncoder.load(checkpoint, options=small), prepared)
    for name, value in plain.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-6 * value.abs().max().item()), (
            name
        )


def test_gradient_cache_keeps_no_activations(checkpoint, prepared):
    """What autograd holds between forward and backward does not grow with the rows."""

    def held(options, rows):
        encoder = TrainableEncoder.load(checkpoint, options=options)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            encoder(rows)
        return sum(sizes)

    options = ModelOptions(token_budget=64, gradient_cache=True)
    plain = replace(options, gradient_cache=False)
    assert held(options, prepared * 4) < held(plain, prepared * 4) / 50


@pytest.mark.parametrize("name, value", [("pooling", "mean"), ("attention", "bidirectional")])
def test_ablation_switches_are_independent_of_the_batch(
    checkpoint, prepared, name, value, tmp_path
):
    options = replace(ModelOptions(), **{name: value})
    encoder = TrainableEncoder.load(checkpoint, options=options)
    usual = TrainableEncoder.load(checkpoint, options=ModelOptions())
    with torch.no_grad():
        together = encoder(prepared)
        alone = torch.cat([encoder([row]) for row in prepared])
        difference = (together - usual(prepared)).abs().amax(dim=1)
    assert (together - alone).abs().max() < 1e-5
    assert difference.min() > 1e-3
    with pytest.raises(SettingsError, match=value):
        encoder.save(tmp_path, dtype="float32")


def test_merged_adapter_equals_the_adapter(checkpoint, rows, prepared, tmp_path):
    encoder = TrainableEncoder.load(checkpoint, options=ModelOptions(lora_rank=8), seed=1)
    assert all(".lora_" in name for name in encoder.trainable())
    untrained = TrainableEncoder.load(checkpoint, options=ModelOptions())
    with torch.no_grad():
        assert torch.equal(encoder(prepared), untrained(prepared))  # B starts at zero
        generator = torch.Generator().manual_seed(0)
        for name, value in encoder.trainable().items():
            if ".lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        adapted = encoder(prepared).numpy()
        assert np.abs(adapted - untrained(prepared).numpy()).max() > 1e-2
    encoder.save(tmp_path, dtype="float32", profile=PROFILE)
    assert Checkpoint.read(tmp_path).picture_tokens() == (4, 9)
    merged = Encoder.load(tmp_path, profile=PROFILE).encode(rows).vectors
    assert np.abs(merged - adapted).max() < 1e-5


def test_saved_weights_are_the_files_of_the_hub(checkpoint, tmp_path):
    from safetensors import safe_open

    TrainableEncoder.load(checkpoint, options=ModelOptions(lora_rank=4)).save(
        tmp_path, dtype="float16"
    )
    with (
        safe_open(checkpoint / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "model.safetensors", "pt") as after,
    ):
        assert set(after.keys()) == set(before.keys())
        assert {after.get_tensor(name).dtype for name in after.keys()} == {torch.float16}  # noqa: SIM118
    assert (tmp_path / "tokenizer.json").read_bytes() == (
        checkpoint / "tokenizer.json"
    ).read_bytes()
