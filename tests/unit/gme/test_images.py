"""Awkward picture files end as the table says; nothing but `ImageRejected` ever comes out of damaged bytes."""

import csv
import io
import resource
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from tests.shared import DATA, shared
from udfs.errors import ImageRejected
from udfs.gme.image_headers import jpeg_scans, kind_of
from udfs.gme.images import MAX_PIXELS, MAX_SCANS, REASONS, decode_image

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF")
TABLE = DATA / "images" / "expected.csv"
CASES = list(csv.DictReader(TABLE.open())) if TABLE.exists() else []
ADVISORY = {"truncated", "corrupt"}  # the table does not insist on which of the two


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def thumbnail(image):
    """Mean colour over exact areas of a 4x4 grid, 48 numbers."""
    pixels = np.asarray(image).repeat(4, axis=0).repeat(4, axis=1)
    return pixels.reshape(4, image.height, 4, image.width, 3).mean(axis=(1, 3)).reshape(-1)


def outcome(data):
    try:
        return decode_image(data)
    except ImageRejected as error:
        return error


def test_the_table_is_complete():
    shared("images", "expected.csv")
    assert len(CASES) == 48


@pytest.mark.parametrize("case", CASES, ids=[case["file"][6:] for case in CASES])
@pytest.mark.timeout(5)
def test_awkward_file(case):
    result = outcome((TABLE.parent / case["file"]).read_bytes())
    if isinstance(result, ImageRejected):
        assert case["expected"] in ("reject", "either"), result
        wanted = case["reject_reason"]
        assert result.reason in (ADVISORY if wanted in ADVISORY else {wanted})
        return
    assert case["expected"] in ("decode", "either")
    assert result.mode == "RGB"
    if case["width"]:
        assert result.size == (int(case["width"]), int(case["height"]))
        expected = np.frombuffer(bytes.fromhex(case["thumb4x4_rgb_hex"]), np.uint8)
        assert np.abs(thumbnail(result) - expected).mean() <= float(case["tolerance"])


def test_bombs_take_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in (
        "reject_giant.jpg",
        "reject_bomb.gif",
        "reject_memory_trap.tif",
        "png_text_chunk_bomb.png",
    ):
        outcome(shared("images", "files", name).read_bytes())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_whole_picture_just_over_the_limit_is_rejected_from_its_header():
    header = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    header[18:26] = (10_001).to_bytes(4, "little") + (10_000).to_bytes(4, "little")
    with pytest.raises(ImageRejected, match=str(MAX_PIXELS)) as caught:
        decode_image(bytes(header))
    assert caught.value.reason == "too_many_pixels"


def test_transparency_over_white_or_dropped():
    data = encoded(Image.new("RGBA", (2, 2), (10, 20, 30, 0)))
    assert decode_image(data).getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(data, background="drop").getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled_or_left_to_pillow(form):
    samples = np.array([[0, 100, 255, 256, 1000, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(samples), form)
    assert np.asarray(decode_image(data))[0, :, 0].tolist() == [0, 0, 0, 1, 3, 255]
    as_gme = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.asarray(as_gme)[0, :, 0].tolist() == [0, 100, 255, 255, 255, 255]
    np.testing.assert_array_equal(decode_image(data, background="drop"), as_gme)


def test_orientation_is_applied_only_when_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)
    assert decode_image(data).size == (10, 20)
    assert decode_image(data, upright=False).size == (20, 10)
    assert ImageOps.exif_transpose(decode_image(data)).size == (10, 20)  # not a second time


def test_a_decoded_picture_outlives_its_file():
    for sample in SAMPLES:
        assert np.asarray(decode_image(sample).resize((4, 4)).copy()).shape == (4, 4, 3)


def test_float_samples_have_no_defined_white():
    with pytest.raises(ImageRejected) as caught:
        decode_image(encoded(Image.new("F", (4, 4)), "TIFF"))
    assert caught.value.reason == "unsupported_format"


def test_cut_files_stay_errors_where_other_code_made_pillow_lenient(monkeypatch):
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(outcome(whole[: len(whole) // 2])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.reason for result in results] == ["truncated"] * 8
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


SAMPLES = [
    encoded(Image.effect_noise((24, 16), 60).convert("RGB"), form)
    for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_decode_or_are_rejected_with_a_known_reason(data):
    sample = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(0, 4))):
        sample[data.draw(st.integers(0, len(sample) - 1))] = data.draw(st.integers(0, 255))
    result = outcome(bytes(sample[: data.draw(st.integers(0, len(sample)))]))
    if isinstance(result, ImageRejected):
        assert result.reason in REASONS
        assert result.status == f"image_{result.reason}"
    else:
        assert result.mode == "RGB"


# Parameters of the last scan of a progressive grey JPEG: refine AC coefficients 1 to 63, bit 0; then no bits at all.
_EMPTY_SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x10"


def of_many_scans(scans, *, size=64):
    """A progressive JPEG to which scans are added, each of ten bytes."""
    data = encoded(Image.new("L", (size, size), 99), "JPEG", progressive=True)
    return data[:-2] + _EMPTY_SCAN * (scans - jpeg_scans(data).scans) + data[-2:]


def test_scans_are_counted_from_the_markers():
    picture = Image.effect_noise((120, 80), 60)
    for options, scans in [({}, 1), ({"progressive": True}, 6)]:
        found = jpeg_scans(encoded(picture, "JPEG", **options))
        assert (found.scans, found.width, found.height) == (scans, 120, 80)
    colours = jpeg_scans(encoded(picture.convert("RGB"), "JPEG", progressive=True))
    assert 8 <= colours.scans <= 12
    # Neither a thumbnail in EXIF nor what stands behind the end is a scan of the picture.
    inner = encoded(picture, "JPEG", progressive=True)
    exif = b"Exif\x00\x00" + inner
    plain = encoded(picture, "JPEG")
    app1 = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    assert jpeg_scans(plain[:2] + app1 + plain[2:] + inner).scans == 1
    assert jpeg_scans(of_many_scans(500)).scans == 500


def test_a_jpeg_of_thousands_of_scans_is_rejected_before_it_is_decoded():
    assert outcome(of_many_scans(MAX_SCANS)).size == (64, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    found = outcome(of_many_scans(100_000, size=8000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 2
    assert found.reason == "too_many_scans"
    assert "100000 scans" in found.detail
    large = outcome(of_many_scans(60, size=8000))  # 60 x 64 million pixels
    assert large.reason == "too_many_scans"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at_for_scans(data):
    assert jpeg_scans(b"\xff\xd8\xff" + data).scans <= 100


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"SECRET text", "text"),
        (b"<html>SECRET", "an HTML page"),
        (b" <?xml version='1'?><svg>SECRET", "SVG"),
        (b"%PDF SECRET", "a PDF file"),
        (b"PK\x03\x04SECRET", "a zip archive"),
        (b"\x00\x00\x00\x18ftypheicSECRET", "HEIC"),
        (b"\x01\x02\xffSECRET", "unknown bytes"),
        ("é".encode() * 600, "text"),
    ],
)
def test_no_byte_of_a_file_stands_in_the_reason(data, kind):
    found = outcome(data)
    assert found.reason == "unsupported_format"
    assert kind in found.detail
    assert f"{len(data)} bytes" in found.detail
    assert "SECRET" not in found.detail
    assert kind in kind_of(data)


def test_what_pillow_quotes_is_left_out():
    data = bytearray(encoded(Image.new("RGB", (40, 40))))
    at = data.index(b"IDAT")
    for secret in (b"SECR", b"S\xffCR"):
        data[at : at + 4] = secret
        found = outcome(bytes(data))
        assert isinstance(found, ImageRejected)
        assert "SECR" not in found.detail
        assert "CR" not in found.detail
