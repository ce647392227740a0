"""A checkpoint folder that is incomplete or foreign is refused with the name of what is wrong."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from udfs.errors import CheckpointError
from udfs.gme import Encoder, Row
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.weights import check_weights


@pytest.fixture
def sharded(golden_path, tmp_path):
    """The golden checkpoint with its weights in two shards and an index, as the published ones have."""
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(golden_path / name, tmp_path / name)
    weights = load_file(golden_path / "model.safetensors")
    names = sorted(weights)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, part in shards.items():
        save_file(
            {name: weights[name] for name in part}, tmp_path / file, metadata={"format": "pt"}
        )
    index = {name: file for file, part in shards.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )
    return tmp_path


def test_shards_load_and_hash_in_order(sharded, reference):
    row = Row("red cotton t-shirt, size M")
    vectors = Encoder.load(sharded, profile="reference").encode([row]).vectors
    expected = reference.encode([row]).vectors  # other alignment in memory, other order of sums
    assert np.abs(vectors - expected).max() < 1e-6
    files = sorted(sharded.glob("*.safetensors"))
    joined = b"".join(file.read_bytes() for file in files)
    assert Checkpoint.read(sharded).weights_sha256() == hashlib.sha256(joined).hexdigest()


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        Encoder.load(sharded)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_missing_file_is_named(sharded, name):
    (sharded / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Checkpoint.read(sharded)


def test_a_missing_weight_is_not_made_up(sharded):
    file = sharded / "model-00002-of-00002.safetensors"
    weights = load_file(file)
    dropped = sorted(weights)[0]
    del weights[dropped]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing"):
        Encoder.load(sharded)


def test_another_architecture_is_refused(sharded):
    (sharded / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", "hidden_size": 8}))
    with pytest.raises(CheckpointError, match="qwen3_vl"):
        Checkpoint.read(sharded)


def test_no_folder():
    with pytest.raises(CheckpointError, match="nowhere"):
        Checkpoint.read("nowhere/at/all")


def test_a_cut_weight_file_is_found_from_its_header(sharded):
    checkpoint = Checkpoint.read(sharded)
    check_weights(checkpoint)
    file = sharded / "model-00002-of-00002.safetensors"
    whole = file.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 100, 7, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=f"{file.name} of {length:,} bytes is cut"):
            check_weights(checkpoint)
    file.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="cut or damaged"):
        check_weights(checkpoint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda config: config["vision_config"].update(embed_dim=8),
            "blocks.0.attn.qkv.weight has",
        ),
        (lambda config: config.update(num_hidden_layers=9), "missing layers.* config.json implies"),
        (lambda config: config.update(vocab_size=7), r"embed_tokens.weight has .* implies \(7, "),
    ],
)
def test_weights_of_another_config_are_refused(golden_path, tmp_path, change, said):
    folder = shutil.copytree(golden_path, tmp_path / "copy", copy_function=shutil.copyfile)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        check_weights(Checkpoint.read(folder))


def test_quantised_weights_are_refused(golden_path, tmp_path):
    folder = shutil.copytree(golden_path, tmp_path / "copy", copy_function=shutil.copyfile)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("mlp.up_proj.weight"))
    weights[name] = weights[name].to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"up_proj.weight \(I8\); quantised"):
        check_weights(Checkpoint.read(folder))


def test_the_checkpoints_own_budget_of_image_tokens(golden_path, tmp_path):
    assert Checkpoint.read(golden_path).picture_tokens() == (4, 16384)
    folder = shutil.copytree(golden_path, tmp_path / "copy", copy_function=shutil.copyfile)
    for said, tokens in (
        ({"size": {"shortest_edge": 784, "longest_edge": 1568}}, (1, 2)),
        ({"min_pixels": 12544, "max_pixels": 12544, "size": {"shortest_edge": 784}}, (16, 16)),
        ({"size": {"height": 224, "width": 224}}, None),
    ):
        (folder / "preprocessor_config.json").write_text(json.dumps(said))
        assert Checkpoint.read(folder).picture_tokens() == tokens
    (folder / "preprocessor_config.json").unlink()
    assert Checkpoint.read(folder).picture_tokens() is None
