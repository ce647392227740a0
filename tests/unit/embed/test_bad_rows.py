"""Rows that cannot be read beside rows that can: each gets its own status, and every other its vector."""

import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.embed_specs import embed_spec
from tests.unit.gme.test_encoder import picture
from udfs.embed import row_watch
from udfs.embed.batches import EMBED_OUTPUT, embed_batches
from udfs.embed.preview import preview_batches
from udfs.embed.row_watch import RowWatch
from udfs.gme.prepare import RowPreparer
from udfs.specs import EmbedSpec, ReadSpec, ServingSpec

TINY = Path(__file__).resolve().parents[3] / "conf" / "gme-tiny"
NAMES = ["key", "text", "image", "image_uri", "instruction", "is_query"]


@pytest.fixture(scope="module")
def spec() -> EmbedSpec:
    return embed_spec(TINY, serving=ServingSpec(placement="worker", device="cpu", threads=1))


def batch(rows):
    def column(name, kind):
        made = pa.array([row.get(name) for row in rows], pa.binary())
        return made if kind == pa.binary() else made.view(kind)

    columns = [
        column("key", pa.string()),
        column("text", pa.string()),
        column("image", pa.binary()),
        column("image_uri", pa.string()),
        column("instruction", pa.string()),
        pa.array(["instruction" in row for row in rows]),
    ]
    return pa.RecordBatch.from_arrays(columns, NAMES)


def embedded(rows, spec):
    (made,) = embed_batches(iter([batch(rows)]), spec=spec)
    assert made.schema == EMBED_OUTPUT.arrow
    made.validate(full=False)
    assert made["key"].cast(pa.binary()).to_pylist() == [row["key"] for row in rows]
    statuses = made["status"].to_pylist()
    errors = made["error"].to_pylist()
    assert all(
        (status == "ok") == (error is None) for status, error in zip(statuses, errors, strict=True)
    )
    return statuses, errors, made["embedding"].to_pylist()


def test_one_bad_row_costs_itself_alone(spec, tmp_path):
    good = picture(60, 60)
    (tmp_path / "a.png").write_bytes(good)
    (tmp_path / "page.jpg").write_bytes(b"<html>SECRET")
    os.mkfifo(tmp_path / "pipe")
    uri = str(tmp_path / "a.png").encode()
    rows = [
        {"key": b"good", "text": b"a mug"},
        {"key": b"text", "text": b"A\xffB"},
        {"key": b"file", "image_uri": uri, "text": b"a mug"},
        {"key": b"path", "image_uri": b"/a\xff.jpg", "text": b"a mug"},
        {"key": b"both", "image_uri": uri, "text": b"\xc3"},
        {"key": b"asked", "text": b"a mug", "instruction": b"find \xff"},
        {"key": b"\xfe key", "text": b"a mug"},
        {"key": b"scheme", "image_uri": b"ipfs://x"},
        {"key": b"pipe", "image_uri": str(tmp_path / "pipe").encode()},
        {"key": b"page", "image_uri": str(tmp_path / "page.jpg").encode()},
        {"key": b"bytes", "image": good, "image_uri": b"ipfs://x", "text": b"a mug"},
    ]
    statuses, errors, vectors = embedded(rows, spec)
    assert statuses == [
        "ok",
        "not_utf8",
        "ok",
        "not_utf8",
        "not_utf8",
        "not_utf8",
        "ok",
        "image_unreachable",
        "image_not_a_file",
        "image_unsupported_format",
        "ok",
    ]
    assert "the text is not UTF-8" in errors[1]
    assert "image path" in errors[3]
    assert "instruction" in errors[5]
    assert errors[9] == "not a picture we read: 12 bytes that look like an HTML page"
    np.testing.assert_allclose(vectors[2], vectors[10], atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[6], atol=1e-6)


def test_the_next_attempt_rejects_what_an_earlier_one_hung_at(spec, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(30, 30))
    slow = RowWatch(str(tmp_path / "notes"), seconds=1)
    slow._write("slow")
    watched = EmbedSpec(spec.model, spec.serving, max_row_seconds=60, notes=str(tmp_path / "notes"))
    uri = str(tmp_path / "a.png").encode()
    rows = [
        {"key": b"before", "image_uri": uri},
        {"key": b"slow", "image_uri": b"/nowhere"},
        {"key": b"after", "image_uri": uri},
    ]
    statuses, errors, _ = embedded(rows, watched)
    assert statuses == ["ok", "too_slow", "ok"]
    assert "embed.max_task_seconds_per_row" in errors[1]


def test_the_row_that_hangs_is_the_row_that_is_noted(spec, tmp_path, monkeypatch):
    ended = []

    def end(code):
        ended.append(code)
        time.sleep(5)  # the watch's thread alone: the process should have ended

    monkeypatch.setattr(row_watch.os, "_exit", end)
    really = RowPreparer.prepare

    def prepare(self, row, **more):
        if row.text == "hang":
            time.sleep(0.6)
        return really(self, row, **more)

    monkeypatch.setattr(RowPreparer, "prepare", prepare)
    watched = EmbedSpec(spec.model, spec.serving, max_row_seconds=0.3, notes=str(tmp_path / "n"))
    rows = [{"key": n, "text": t} for n, t in [(b"a", b"x"), (b"b", b"hang"), (b"c", b"x")]]
    embedded(rows, watched)
    assert ended == [row_watch.EXIT_CODE]
    assert [n.name for n in (tmp_path / "n").iterdir()] == [row_watch._note("b")]


def test_previews_of_bad_rows_are_empty(tmp_path):
    rows = [b"a\xff.jpg", b"foo://x", b"/a\x00", b"/etc/passwd", None]
    made = pa.RecordBatch.from_arrays(
        [
            pa.array([b"\xff"] * 5, pa.binary()).view(pa.string()),
            pa.array([b"\xff"] * 5, pa.binary()).view(pa.string()),
            pa.nulls(5, pa.binary()),
            pa.array(rows, pa.binary()).view(pa.string()),
        ],
        ["id", "text", "image", "image_uri"],
    )
    (found,) = preview_batches(iter([made]), spec=ReadSpec(roots=(str(tmp_path),)))
    assert found["image"].to_pylist() == [None] * 5
    assert found["id"].equals(made["id"])
