"""Scratch checkpoints: the same files for a seed, and readable by stock transformers."""

import os

import numpy as np
import pytest
import torch

from udfs.gme import Encoder, Row
from udfs.gme.prompts import Prompts
from udfs.gme.scratch import write_scratch_checkpoint
from udfs.gme.scratch_tokenizer import train_tokenizer
from udfs.specs import GME

TEXTS = [f"a {colour} {kind}" for colour in ("red", "crimson") for kind in ("mug", "lamp", "kite")]
SMALL = {"hidden": 64, "layers": 1, "vision_dim": 32, "vision_depth": 1, "vocab": 300}


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_seed_gives_the_same_files(tmp_path):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = write_scratch_checkpoint(tmp_path / "a", texts=TEXTS, **SMALL)
    again = write_scratch_checkpoint(tmp_path / "b", texts=TEXTS, **SMALL)
    other = write_scratch_checkpoint(tmp_path / "c", texts=TEXTS, seed=1, **SMALL)
    assert files(first) == files(again)
    assert files(first)["model.safetensors"] != files(other)["model.safetensors"]
    assert torch.equal(before, torch.random.get_rng_state())


def test_stock_classes_read_it_and_agree(tmp_path):
    from transformers import AutoConfig, AutoTokenizer, Qwen2VLForConditionalGeneration

    path = write_scratch_checkpoint(tmp_path, texts=TEXTS, **SMALL)
    assert AutoConfig.from_pretrained(path).model_type == "qwen2_vl"
    text = "a crimson mug\n\n  naïve 中文"
    prompts = Prompts.load(path / "tokenizer.json", config={}, profile=GME)
    stock = AutoTokenizer.from_pretrained(path)
    assert stock(text)["input_ids"] == prompts._encode(text)
    model, info = Qwen2VLForConditionalGeneration.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.tensor([prompts.ids(text, image_tokens=0, instruction=None, is_query=False)])
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
    vector = Encoder.load(path).encode([Row(text)]).vectors[0]
    assert np.abs(vector - (hidden / hidden.norm()).numpy()).max() < 1e-5


def test_impossible_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="270"):
        train_tokenizer(TEXTS, vocab=200)
    with pytest.raises(ValueError, match="hidden 100"):
        write_scratch_checkpoint(tmp_path, texts=TEXTS, hidden=100)


def test_other_users_may_read_all_files(tmp_path):
    umask = os.umask(0o022)
    try:
        path = write_scratch_checkpoint(tmp_path, texts=TEXTS, **SMALL)
    finally:
        os.umask(umask)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}
