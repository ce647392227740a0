"""The table that notebooks show: what each kind of value becomes, and that no text gets out of its cell."""

import io
from datetime import datetime

from PIL import Image

from jobs.reports.hits import Hit
from jobs.reports.shown_rows import ShownRows


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(out, "JPEG")
    return out.getvalue()


def shown(*values, **options) -> str:
    names = [f"column <{n}>" for n in range(len(values))]
    return ShownRows(names, [values], **options)._repr_html_()


def test_each_kind_of_value_is_short_and_escaped():
    vector = [0.123456, -0.5, 0.25, 1.0]
    page = shown("<b>mug</b>", 0.98765432, 12345, None, vector, {"ok": 2381, "empty": 20})
    assert "&lt;b&gt;mug" in page and "<b>" not in page and "column &lt;0&gt;" in page
    for words in ("0.9877", "12,345", ">null<", "[0.1235, -0.5, 0.25, …] 4 values", "ok: 2,381"):
        assert words in page, words
    page = shown(datetime(2026, 11, 27, 8, 5, 1, 999), True, "a" * 500, [1, 2])
    assert "2026-11-27 08:05:01<" in page and ">True<" in page and "[1, 2]" in page
    assert "a" * 239 + "…" in page and "a" * 240 not in page


def test_pictures_and_hits_are_small_pictures_and_broken_ones_say_why():
    hit = Hit(1, "p7", 0.87654, "a red mug", jpeg())
    page = shown(jpeg(), bytearray(jpeg()), hit, b"<html>", Hit(2, "p8", 0.5))
    assert page.count("data:image/jpeg;base64,") == 3
    assert "0.8765" in page and "a red mug" in page and ">p7<" in page
    assert page.count("<i>no picture") == 2 and "no picture:" in page


def test_it_says_where_rows_are_missing():
    assert "there are more" in shown(1, is_cut=True) and "there are more" not in shown(1)
    assert "No rows." in ShownRows(["id"], [])._repr_html_()
