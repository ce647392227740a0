"""Canaries: fixed inputs, what is kept of them, and what an environment that makes other vectors is told."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.embed_specs import SMALL_IMAGES
from udfs.errors import CanaryError, CheckpointError, ServingError
from udfs.gme import EncodedBatch, Encoder
from udfs.gme.canaries import inputs
from udfs.gme.canaries.check import check_canaries, compare
from udfs.gme.canaries.environment import (
    describe_environment,
    find_differences,
    merge_loads,
    report_load,
)
from udfs.gme.canaries.inputs import canary_rows
from udfs.gme.canaries.record import Canaries, read_canaries, sha256_of
from udfs.gme.images import decode_image
from udfs.specs import CanarySpec

HERE = {"python": "3.11.9", "pillow": "13.0.0", "device": "cpu AVX2"}


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Encoder:
    return Encoder.load(checkpoint, profile=SMALL_IMAGES)


@pytest.fixture(scope="module")
def canaries(encoder: Encoder) -> Canaries:
    rows = canary_rows()
    return Canaries.of(rows, encoder.encode(rows.values()), environment=HERE)


def kept(canaries: Canaries, folder: Path, *, cosine: float = 0.9995) -> CanarySpec:
    """Canaries in a file, as a job puts them into the lake."""
    data = canaries.to_bytes()
    file = folder / f"{sha256_of(data)}.json"
    file.write_bytes(data)
    return CanarySpec(str(file), sha256_of(data), cosine)


def test_the_inputs_are_of_many_kinds_and_whole(monkeypatch) -> None:
    rows = canary_rows()
    assert len(rows) == 16
    opened = [decode_image(row.image) for row in rows.values() if row.image and not row.text]
    assert len({image.size for image in opened}) == len(opened) == 10
    assert sum(bool(row.text and row.image) for row in rows.values()) == 2
    assert sum(row.is_query for row in rows.values()) == 2
    monkeypatch.setitem(inputs._PICTURES, "tiny.png", "0" * 64)
    with pytest.raises(CheckpointError, match=r"tiny.png of this installation .* install gme-lake"):
        canary_rows()


def test_a_model_agrees_with_its_own_canaries_kept_in_a_file(encoder, canaries, tmp_path) -> None:
    assert set(canaries.statuses) == {"ok"}
    spec = kept(canaries, tmp_path)
    assert check_canaries(spec, encoder, environment=HERE) > 0.999999
    again = read_canaries(spec)
    assert again.rows == canaries.rows and again.environment == HERE
    np.testing.assert_array_equal(again.vectors, canaries.vectors)


def test_pictures_resized_otherwise_are_refused_and_both_environments_named(
    encoder, canaries, tmp_path, monkeypatch
) -> None:
    """Another filter stands for a Pillow that resizes otherwise."""
    spec = kept(canaries, tmp_path)
    with monkeypatch.context() as patch:
        resize = Image.Image.resize
        patch.setattr(
            Image.Image, "resize", lambda image, size, _: resize(image, size, Image.Resampling.BOX)
        )
        there = HERE | {"pillow": "12.3.0"}
        with pytest.raises(CanaryError) as refused:
            check_canaries(spec, encoder, environment=there)
        said = str(refused.value)
        assert "'wide.tif' has cosine 0." in said and "'word'" not in said  # of the pictures alone
        assert "Registered with python 3.11.9, pillow 13.0.0, device cpu AVX2; here" in said
        assert "pillow 12.3.0" in said and "they differ in pillow." in said
        assert "gme-lake register-model" in said and "model.canary_cosine=0.9995" in said
        lenient = dataclasses.replace(spec, cosine=-1.0)
        lowest = check_canaries(lenient, encoder, environment=there)
        assert lowest < 0.9995
    assert check_canaries(spec, encoder, environment=HERE) > 0.999999


def test_an_input_that_only_one_side_can_read_is_refused(canaries) -> None:
    errors: list[str | None] = [None] * 16
    number = list(canaries.rows).index("photo.webp")
    errors[number] = "image_unsupported_format: this Pillow was built without WEBP"
    cannot = EncodedBatch(canaries.vectors.copy(), errors)
    cannot.vectors[number] = np.nan
    found = compare(canaries, cannot, cosine=-1)
    assert found.lowest > 0.999999
    assert found.faults == (f"'photo.webp' is {errors[number]} where ok is right",)
    recorded = Canaries.from_bytes(Canaries.of(canaries.rows, cannot, environment=HERE).to_bytes())
    assert np.isnan(recorded.vectors[number]).all()
    assert compare(recorded, cannot, cosine=0.9995).faults == ()
    can = EncodedBatch(canaries.vectors, [None] * 16)
    (said,) = compare(recorded, can, cosine=0.9995).faults
    assert said == "'photo.webp' is ok where image_unsupported_format is right"


def test_half_precision_is_within_the_tolerance(checkpoint, canaries) -> None:
    half = Encoder.load(checkpoint, dtype="bfloat16", profile=SMALL_IMAGES)
    found = compare(canaries, half.encode(canaries.rows.values()), cosine=0.9995)
    assert 0.9995 < found.lowest < 0.999999 and not found.faults


def test_a_missing_or_damaged_file_is_told_apart(encoder, canaries, tmp_path) -> None:
    spec = kept(canaries, tmp_path)
    file = Path(spec.uri)
    file.write_bytes(file.read_bytes().replace(b"mug", b"jug", 1))
    with pytest.raises(ServingError, match=r"have sha-256 .* the next job writes it again"):
        check_canaries(spec, encoder, environment=HERE)
    file.unlink()
    with pytest.raises(ServingError, match=r"cannot be read: .* the next job writes it again"):
        check_canaries(spec, encoder, environment=HERE)


def test_a_runs_environment_is_that_of_all_its_loads() -> None:
    here = describe_environment("cpu")
    assert {"python", "pillow", "libjpeg", "torch", "transformers", "device"} <= set(here)
    assert find_differences(here, here | {"pillow": "12.3.0"}) == ["pillow"]
    one = report_load({"pillow": "13.0.0", "device": "cpu"}, lowest=0.99991234)
    other = report_load({"pillow": "12.3.0", "device": "cpu"}, lowest=0.9998)
    both = merge_loads([one, other])
    assert both == {"pillow": "12.3.0, 13.0.0", "device": "cpu", "canary_cosine": "0.9998000"}
    unchecked = report_load({"pillow": "13.0.0", "device": "cpu"}, lowest=None)
    assert merge_loads([one, unchecked])["canary_cosine"] == "unchecked"
    assert merge_loads([]) == {}
    assert json.loads(unchecked)["canary_cosine"] == "unchecked"
