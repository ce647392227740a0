"""model_id changes with every ingredient, and with nothing else."""

import dataclasses
import json
import shutil

import pytest

from udfs.errors import CheckpointError
from udfs.gme import Encoder, fingerprint
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.fingerprint import model_id
from udfs.specs import GME, REFERENCE, ModelProfile

CHANGED = {  # a value other than the default for every field that can change a vector
    "default_instruction": "Represent the product.",
    "min_image_tokens": 4,
    "max_image_tokens": 512,
    "pre_resize": False,
    "max_length": 1024,
    "truncation": "reference",
    "upright": False,
    "background": "drop",
    "blank_text": "embed",
    "positions": "mrope",
    "pooling": "mean",
}


@pytest.fixture
def folder(golden_path, tmp_path):
    for file in golden_path.iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


def identity(folder, *, weights_sha256="00", dtype="float32", profile=GME):
    checkpoint = Checkpoint.read(folder)
    return model_id(checkpoint, weights_sha256=weights_sha256, dtype=dtype, profile=profile)


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_no_profile_field_is_forgotten():
    fields = {field.name for field in dataclasses.fields(ModelProfile)}
    assert fields == set(CHANGED) | {"name", "dim"}


@pytest.mark.parametrize("field", CHANGED)
def test_profile_ingredient(folder, field):
    changed = dataclasses.replace(GME, **{field: CHANGED[field]})
    assert getattr(GME, field) != CHANGED[field]
    assert identity(folder, profile=changed) != identity(folder)


@pytest.mark.parametrize("change", [{"weights_sha256": "01"}, {"dtype": "float16"}])
def test_weights_and_dtype(folder, change):
    assert identity(folder, **change) != identity(folder)


@pytest.mark.parametrize("change", [{"rms_norm_eps": 1e-5}, {"rope_theta": 10000.0}])
def test_config(folder, change):
    before = identity(folder)
    edit_config(folder, **change)
    assert identity(folder) != before


def test_tokenizer(folder):
    before = identity(folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"NFC"', '"NFKC"'))
    assert identity(folder) != before


def test_preprocessing_version(folder, monkeypatch):
    before = identity(folder)
    monkeypatch.setattr(fingerprint, "PREPROCESSING_VERSION", "other")
    assert identity(folder) != before


def test_names_and_tools_do_not_count(folder):
    before = identity(folder)
    edit_config(folder, transformers_version="9.9", _name_or_path="elsewhere")
    assert identity(folder, profile=dataclasses.replace(GME, name="mine", dim=64)) == before
    assert len(before) == 16 and int(before, 16) >= 0


def test_the_weights_of_the_encoder_count(reference, golden_path, folder):
    assert reference.model_id == identity(
        golden_path, weights_sha256=Checkpoint.read(folder).weights_sha256(), profile=REFERENCE
    )
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert Encoder.load(folder, profile="reference").model_id != reference.model_id


def test_wrong_width_is_refused_before_loading(golden_path):
    with pytest.raises(CheckpointError, match=r"1536 .* 64"):
        Encoder.load(golden_path, profile=ModelProfile(dim=1536))
