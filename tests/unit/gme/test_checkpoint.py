"""A checkpoint folder that is incomplete or foreign is refused with the name of what is wrong."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from udfs.errors import CheckpointError
from udfs.gme import Encoder, Row
from udfs.gme.checkpoint import Checkpoint


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
    assert torch.equal(torch.from_numpy(vectors), torch.from_numpy(reference.encode([row]).vectors))
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
