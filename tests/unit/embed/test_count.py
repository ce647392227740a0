"""Tokens counted from texts and headers are those that a row has when it is prepared."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest
from PIL import Image

from tests.shared import DATA, shared
from udfs.embed.batches import EMBED_INPUT
from udfs.embed.count import count_batches
from udfs.errors import RowRejected
from udfs.gme.prepare import Row, RowPreparer
from udfs.specs import GME, REFERENCE, EmbedSpec, ModelSpec

PROFILES = (GME, REFERENCE)


@pytest.fixture(scope="module", params=PROFILES, ids=[profile.name for profile in PROFILES])
def preparer(request) -> RowPreparer:
    return RowPreparer.load(shared("gme_golden", "checkpoint"), profile=request.param)


def picture(width: int, height: int, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, form)
    return out.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(3, 900), (640, 480), (1999, 35), (28, 28), (1200, 1700)])
def test_a_header_gives_the_tokens_that_a_prepared_row_has(preparer, size, form):
    row = Row(text="a mug " * 50, image=picture(*size, form))
    counted, prepared = preparer.count(row), preparer.prepare(row)
    assert counted.picture == prepared.patch_count // 4
    assert counted.text + counted.picture == prepared.tokens


def test_texts_are_counted_as_they_are_cut(preparer):
    for text in ("", " ", "mug", "many words " * 3000):
        row = Row(text=text)
        try:
            wanted = preparer.prepare(row).tokens
        except RowRejected:
            with pytest.raises(RowRejected):
                preparer.count(row)
        else:
            assert preparer.count(row) == (wanted, 0)


def test_every_awkward_picture_that_is_decoded_has_the_tokens_of_its_header(preparer):
    folder = shared("images", "expected.csv").parent
    same = 0
    for case in csv.DictReader((DATA / "images" / "expected.csv").open()):
        row = Row(image=(folder / case["file"]).read_bytes())
        try:
            prepared = preparer.prepare(row)
        except RowRejected:
            continue  # what only decoding shows is counted
        assert sum(preparer.count(row)) == prepared.tokens, case["file"]
        same += 1
    assert same > 20


def test_rows_that_the_model_does_not_see_have_no_tokens(preparer):
    path = str(shared("gme_golden", "checkpoint"))
    spec = EmbedSpec(ModelSpec(path, "0" * 16, 64, "0" * 64, profile=GME))
    rows = [
        {"key": "words", "text": "a mug"},
        {"key": "both", "text": "a mug", "image": picture(640, 480)},
        {"key": "nothing"},
        {"key": "html", "image": b"<html>"},
        {"key": "no file", "image_uri": "/nowhere/a.png"},
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=EMBED_INPUT.arrow)
    (counted,) = count_batches(iter([batch]), spec=spec)
    words, both, *others = counted.to_pylist()
    assert [row["key"] for row in counted.to_pylist()] == [row["key"] for row in rows]
    assert words["text_tokens"] > 0 and words["picture_tokens"] == 0
    assert both["picture_tokens"] == (480 // 28) * (640 // 28 + 1)
    assert all(row["text_tokens"] == row["picture_tokens"] == 0 for row in others)
