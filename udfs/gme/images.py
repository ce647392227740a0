"""Decode one encoded picture to upright RGB, or say in one word why it cannot be used."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import Image, ImageFile

from udfs.errors import ImageRejected
from udfs.gme.image_headers import ends_early, header_size, jpeg_scans, kind_of, sniff
from udfs.strings import without_quotes

REASONS = (
    "empty",
    "truncated",
    "corrupt",
    "unsupported_format",
    "zero_dimension",
    "too_many_pixels",
    "too_many_scans",
    "metadata_bomb",
    "missing",
    "refused",
    "not_a_file",
    "unreachable",
    "too_large",
)
MAX_PIXELS = 100_000_000  # width x height, read from the header before memory for pixels is taken
# Each scan of a progressive JPEG passes over the whole picture, for as little as ten bytes. Encoders write about ten.
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 2_000_000_000  # scans x pixels: twenty scans of the largest picture

_UPRIGHT = {  # EXIF 2.32, tag 0x0112
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def decode_image(
    data: bytes, *, upright: bool = True, background: Literal["white", "drop"] = "white"
) -> Image.Image:
    """The first picture in `data` as an 8-bit RGB image; the content decides the format, never a name.

    `upright` applies the EXIF orientation. `background` says what becomes of transparency: laid over white, or
    dropped (the colour under it shows, as in GME's own code). 16-bit samples are scaled to 8 bits, but those of one
    grey channel are cut off at 255 where transparency is dropped: GME's own code leaves both to Pillow.
    Reads JPEG (also MPO, CMYK), PNG (also APNG), GIF, WebP, BMP, TIFF and, where Pillow has it, AVIF.
    Raises `ImageRejected` with one of `REASONS` for everything else, and for more than `MAX_PIXELS` pixels. Thread-safe.
    """
    with _whole_files_only(), _open(data) as image:
        image.load()
        result = _rgb(_turn(image) if upright else image, background=background)
        result.info = {}  # an orientation left there would be applied again by whoever asks
        return result


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the first picture in `data`, as its header says before it is turned; nothing is decoded.

    Raises `ImageRejected` for what `decode_image` rejects by the header.
    """
    with _open(data) as image:
        return image.size


@contextmanager
def _open(data: bytes) -> Iterator[Image.Image]:
    """The picture, of which nothing but the header is read; whatever is raised inside becomes an `ImageRejected`."""
    if not data:
        raise ImageRejected("empty", "the file has no bytes")
    form = sniff(data)
    if form is None:
        raise ImageRejected(
            "unsupported_format",
            f"not a picture we read: {len(data)} bytes that look like {kind_of(data)}",
        )
    _check_size(header_size(data, form), form)
    if form == "JPEG":
        _check_scans(data)
    try:
        with Image.open(io.BytesIO(data), formats=_formats(form)) as image:
            _check_size(image.size, form)
            yield image
    except ImageRejected:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        detail = f"{form} of more than {MAX_PIXELS} pixels, the limit; Pillow says: {error}"
        raise ImageRejected("too_many_pixels", detail) from error
    except Exception as error:  # Pillow's decoders raise any type on damaged data
        raise ImageRejected(_reason(error, data, form), _detail(error, data, form)) from error


def _formats(form: str) -> list[str]:
    """Pillow's plugins to try. An MPO file starts as a JPEG; Pillow's JPEG plugin hands it on."""
    Image.preinit()
    if form not in Image.OPEN:
        Image.init()
    if form not in Image.OPEN:
        raise ImageRejected("unsupported_format", f"this Pillow was built without {form}")
    return [form]


def _check_size(size: tuple[int, int] | None, form: str) -> None:
    if size is None:
        return
    width, height = size
    if width == 0 or height == 0:
        raise ImageRejected("zero_dimension", f"{form} of {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        found = f"{form} of {width}x{height} = {width * height} pixels"
        raise ImageRejected("too_many_pixels", f"{found}; the limit is {MAX_PIXELS}")


def _check_scans(data: bytes) -> None:
    if data.count(b"\xff\xda") * MAX_PIXELS <= MAX_SCANNED_PIXELS:
        return  # whatever its size; counted without looking where the markers stand
    found = jpeg_scans(data)
    total = found.scans * found.width * found.height
    if found.scans > MAX_SCANS or total > MAX_SCANNED_PIXELS:
        raise ImageRejected(
            "too_many_scans",
            f"JPEG of {found.width}x{found.height} pixels in {found.scans} scans; the limits are {MAX_SCANS} scans "
            f"and {MAX_SCANNED_PIXELS} pixels over all of them: save it anew",
        )


def _reason(error: Exception, data: bytes, form: str) -> str:
    message = str(error)
    if (
        "MAX_TEXT" in message
    ):  # Pillow stops inflating a text chunk at ImageFile/PngImagePlugin.MAX_TEXT_*
        return "metadata_bomb"
    if "image file is truncated" in message:
        return "truncated"
    if "data stream" in message:  # the decoder met bytes that cannot be, wherever the file ends
        return "corrupt"
    return "truncated" if ends_early(data, form) else "corrupt"


def _detail(error: Exception, data: bytes, form: str) -> str:
    # Pillow names the buffer's address where it cannot identify a file: no use to a reader, and never the same twice.
    said = "the header cannot be read" if "cannot identify" in str(error) else str(error)
    return f"{form}, {len(data)} bytes: {without_quotes(said)}"


def _turn(image: Image.Image) -> Image.Image:
    """`image` as the camera was held. Pillow has already turned TIFF and AVIF, and removed the tag."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # unreadable EXIF is common and says nothing about the pixels
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image, *, background: Literal["white", "drop"]) -> Image.Image:
    """A loaded image in RGB; without a copy, which is a tenth of decoding a photograph, where it is RGB already."""
    grey16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if grey16 and background == "drop":
        return image.convert("RGB")
    if grey16:
        eight_bits = (np.asarray(image) >> 8).astype(
            np.uint8
        )  # Pillow's own convert would clip at 255
        return Image.fromarray(eight_bits).convert("RGB")
    if image.mode in ("I", "F"):
        detail = f"{image.format} with 32-bit samples has no defined white"
        raise ImageRejected("unsupported_format", detail)
    if background == "drop" or not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    canvas = Image.new("RGB", layer.size, "white")
    canvas.paste(layer, mask=layer.getchannel("A"))
    return canvas


_lenient_lock = threading.Lock()
_strict_readers = 0


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Keep cut files an error even where other code has set Pillow's global LOAD_TRUNCATED_IMAGES.

    The flag is put back when the last of our readers leaves; where nobody has set it, this does nothing.
    """
    global _strict_readers
    with _lenient_lock:
        if not ImageFile.LOAD_TRUNCATED_IMAGES and _strict_readers == 0:
            entered = False
        else:
            entered = True
            _strict_readers += 1
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        if entered:
            with _lenient_lock:
                _strict_readers -= 1
                ImageFile.LOAD_TRUNCATED_IMAGES = _strict_readers == 0
