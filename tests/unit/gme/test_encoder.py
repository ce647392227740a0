"""Good and bad rows together; memory that runs out; vectors that are not finite; import without torch."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from udfs.errors import SettingsError
from udfs.gme import Encoder, Row
from udfs.gme.budget import Budget
from udfs.gme.model import EmbeddingModel
from udfs.gme.prepare import RowPreparer
from udfs.gme.scratch import write_scratch_checkpoint
from udfs.specs import GME, ModelProfile


def picture(width=60, height=40, colour="red", form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    path = tmp_path_factory.mktemp("scratch")
    texts = [f"a {colour} {kind}" for colour in ("red", "blue") for kind in ("mug", "kite")]
    return write_scratch_checkpoint(path, texts=texts, vocab=320)


@pytest.fixture(scope="module")
def encoder(scratch):
    return Encoder.load(scratch, profile=ModelProfile(min_image_tokens=4, max_image_tokens=64))


GOOD = [
    Row("a red mug"),
    Row("a kite", picture(200, 100)),
    Row(image=picture(300, 300, "blue", "JPEG")),
    Row("<|im_end|><|image_pad|>", instruction="Find it.", is_query=True),
    Row("", picture(50, 50)),
]
BAD = [
    (Row(), "empty"),
    (Row(""), "empty"),
    (Row(" \n"), "empty"),
    (Row("text and a broken picture", picture()[:60]), "image_truncated"),
    (Row(image=b""), "image_empty"),
    (Row("a mug", b"<html>gone</html>"), "image_unsupported_format"),
    (Row("a mug", instruction="mug " * 4000, is_query=True), "instruction_too_long"),
]


def test_bad_rows_do_not_disturb_their_neighbours(encoder):
    clean = encoder.encode(GOOD)
    assert clean.errors == [None] * len(GOOD)
    mixed = [BAD[0][0], BAD[1][0]]
    for good, (bad, _) in zip(GOOD, BAD[2:], strict=True):
        mixed += [good, bad]
    encoded = encoder.encode(iter(mixed))
    assert np.abs(encoded.vectors[2::2] - clean.vectors).max() < 1e-5
    assert np.allclose(np.linalg.norm(clean.vectors, axis=1), 1, atol=1e-5)
    bad = [0, 1, *range(3, len(mixed), 2)]
    assert [encoded.errors[i].split(": ")[0] for i in bad] == [status for _, status in BAD]
    assert np.isnan(encoded.vectors[bad]).all()


def test_picture_text_and_instruction_all_count(encoder):
    rows = [
        Row("a mug", picture()),
        Row("a kite", picture()),
        Row("a mug", picture(colour="blue")),
        Row("a mug"),
        Row("a mug", instruction="Find a picture.", is_query=True),
    ]
    vectors = encoder.encode(rows).vectors
    similarity = vectors @ vectors.T
    assert (similarity[~np.eye(len(rows), dtype=bool)] < 0.9999).all()


def test_no_rows(encoder):
    encoded = encoder.encode([])
    assert encoded.vectors.shape == (0, encoder.dim) and encoded.errors == []


def fails_above(model, limit, monkeypatch):
    """Make forward passes of more than `limit` rows run out of memory, and count the passes."""
    passes = []
    forward = model._forward

    def short_of_memory(rows):
        passes.append(len(rows))
        if len(rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(rows)

    monkeypatch.setattr(model, "_forward", short_of_memory)
    monkeypatch.setattr(model, "_budget", Budget(100_000, 100_000))
    return passes


def test_out_of_memory_halves_and_keeps_the_order(encoder, monkeypatch):
    expected = encoder.encode(GOOD).vectors
    passes = fails_above(encoder._model, 2, monkeypatch)
    encoded = encoder.encode(GOOD)
    assert passes[0] == 5 and max(passes[1:]) < 5
    assert encoded.errors == [None] * 5
    assert np.abs(encoded.vectors - expected).max() < 1e-5


def test_a_row_that_never_fits_is_rejected_with_its_size(encoder, monkeypatch):
    fails_above(encoder._model, 0, monkeypatch)
    encoded = encoder.encode(GOOD[:2])
    assert all(error.startswith("out_of_memory: a row of") for error in encoded.errors)


def test_other_runtime_errors_are_not_swallowed(encoder, monkeypatch):
    def broken(rows):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(encoder._model, "_forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        encoder.encode(GOOD[:1])


def test_a_vector_with_nan_is_an_error_of_its_row_only(scratch):
    encoder = Encoder.load(scratch)
    rows = [Row("a red mug"), Row("zebra")]
    rare = encoder._preparer.prepare(rows[1]).input_ids
    common = encoder._preparer.prepare(rows[0]).input_ids
    token = next(int(i) for i in rare if i not in common)
    encoder._model._forward._language.embed_tokens.weight[token] = float("nan")
    encoded = encoder.encode(rows)
    assert encoded.errors[0] is None and np.isfinite(encoded.vectors[0]).all()
    assert encoded.errors[1].startswith("not_finite: ") and np.isnan(encoded.vectors[1]).all()


def test_half_precision_is_near(scratch, encoder):
    half = Encoder.load(scratch, dtype="bfloat16", profile=encoder._profile)
    cosines = (half.encode(GOOD).vectors * encoder.encode(GOOD).vectors).sum(axis=1)
    assert cosines.min() > 0.99
    assert half.model_id != encoder.model_id


def test_unknown_profile_and_missing_gpu(scratch):
    with pytest.raises(SettingsError, match="gmee"):
        Encoder.load(scratch, profile="gmee")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="no GPU"):
            Encoder.load(scratch, device="cuda")


def test_a_token_budget_that_cannot_fit_an_image_is_a_settings_error(scratch):
    with pytest.raises(SettingsError, match="max_image_tokens"):
        RowPreparer.load(scratch, profile=ModelProfile(max_length=500))
    with pytest.raises(SettingsError, match=r"9\.\.3"):
        RowPreparer.load(scratch, profile=ModelProfile(min_image_tokens=9, max_image_tokens=3))


def test_prepared_rows_are_small(scratch):
    prepared = RowPreparer.load(scratch, profile=GME).prepare(Row("a mug", picture(448, 448)))
    assert prepared.grid == (32, 32) and prepared.patches.dtype == np.uint8
    assert prepared.input_ids.dtype == np.int32
    assert prepared.nbytes == 448 * 448 * 3 + 4 * prepared.tokens


def test_importing_the_package_loads_no_torch():
    code = (
        "import sys; from udfs.gme import Encoder, Row; import udfs.gme.prepare, udfs.gme.scratch;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_of_the_process_are_left_as_they_were(scratch):
    before = torch.get_num_threads()
    model = EmbeddingModel.load(scratch, device="cpu", threads=before + 1)
    assert torch.get_num_threads() == before
    model.embed([RowPreparer.load(scratch, profile=GME).prepare(Row("a mug"))])
    assert torch.get_num_threads() == before
