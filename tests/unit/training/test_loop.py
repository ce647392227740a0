"""Whole trainings on a few pairs: they learn, go on after a kill as if nothing had happened, and agree over processes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.unit.training.conftest import PROFILE
from udfs.errors import SettingsError
from udfs.gme import Encoder
from udfs.training import loop
from udfs.training.loop import train
from udfs.training.scoring import read_scores
from udfs.training.spec import OptimiserOptions, PairsSpec
from udfs.training.step import learning_rate


def curve(spec):
    lines = (Path(spec.work) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows if "loss" in row]


def weights(spec):
    return load_file(Path(spec.output) / "model.safetensors")


@pytest.mark.slow
def test_learns_colours_and_writes_a_checkpoint_that_the_encoder_reads(train_spec, rows):
    spec = replace(train_spec, steps=40, validate_every=20, validation=train_spec.pairs)
    train(spec)
    found = curve(spec)
    assert np.mean([r["loss"] for r in found[-5:]]) < 0.6 * np.mean([r["loss"] for r in found[:5]])
    assert Encoder.load(spec.output, profile=PROFILE).encode(rows).errors == [None] * len(rows)
    lines = [json.loads(x) for x in (Path(spec.work) / "metrics.jsonl").read_text().splitlines()]
    checked = [r for r in lines if "validation/t2i/hit@1" in r]
    assert [r["step"] for r in checked] == [20, 40]
    assert checked[-1]["validation/t2i/hit@1"] > 0.5  # four colours


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(train_spec, monkeypatch, tmp_path):
    whole = replace(train_spec, output=str(tmp_path / "a"), work=str(tmp_path / "wa"))
    train(whole)
    killed = replace(train_spec, output=str(tmp_path / "b"), work=str(tmp_path / "wb"))
    real, calls = loop.train_step, []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:  # after step 3, a step beyond the checkpoint
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    assert not Path(killed.output).exists()
    monkeypatch.setattr(loop, "train_step", real)
    train(killed)
    assert len(curve(whole)) == 6
    assert curve(killed) == curve(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(killed)[name], value), name


def test_a_work_folder_of_another_training_is_refused(train_spec):
    train(replace(train_spec, steps=1))
    with pytest.raises(SettingsError, match="other settings"):
        train(replace(train_spec, temperature=0.5))


def test_a_training_that_diverges_ends_and_is_not_scored(train_spec):
    spec = replace(train_spec, optimiser=OptimiserOptions(lr=1e30, warmup=0.0))
    with pytest.raises(SettingsError, match=r"diverged: its loss is nan.*train\.lr"):
        train(spec)
    assert not Path(spec.output).exists()
    last = replace(spec, steps=1, validation=spec.pairs, work=f"{spec.work}-1")
    with pytest.raises(SettingsError, match="vectors that are not finite"):
        train(last)
    assert read_scores(last) is None


def test_a_length_must_be_given_once(train_spec):
    for wrong in ({"steps": None}, {"minutes": 1.0}):
        with pytest.raises(SettingsError, match=r"train\.steps or train\.minutes"):
            train(replace(train_spec, **wrong))


def test_minutes_end_a_training(train_spec):
    spec = replace(train_spec, steps=None, minutes=0.02)
    train(spec)
    rates = [row["lr"] for row in curve(spec)]
    assert len(rates) > 2
    assert rates[-1] < 0.5 * max(rates)


def test_a_picture_that_cannot_be_read_leaves_its_pair_out(train_spec, tmp_path, preparer):
    import pyarrow as pa

    from udfs.training.data import PAIRS_SCHEMA, write_pairs

    rows = [{"query_text": f"text {i}", "positive_text": f"answer {i}"} for i in range(5)]
    rows.append({"query_text": "lost", "positive_image_uri": str(tmp_path / "no.png")})
    file = write_pairs(
        tmp_path / "p.arrow", pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA).to_batches()
    )
    spec = replace(train_spec, pairs=PairsSpec(path=str(file)), batch=6, steps=3)
    train(spec)
    found = curve(spec)
    assert all(np.isfinite(row["loss"]) for row in found)
    assert any(row["rejected"] for row in found)


def test_learning_rate_warms_up_and_decays_to_zero():
    options = OptimiserOptions(lr=2.0, warmup=0.1)
    assert [learning_rate(p, options) for p in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx(
        [0.0, 1.0, 2.0, 1.0, 0.0]
    )
    cosine = replace(options, decay="cosine")
    assert learning_rate(0.55, cosine) == pytest.approx(1.0)
    assert learning_rate(0.325, cosine) > learning_rate(0.325, options)
