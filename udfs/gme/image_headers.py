"""What an image file says about itself before it is decoded: format, size, and whether its end is missing."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

_TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def sniff(data: bytes) -> str | None:
    """Pillow's name of the format that the first bytes claim, or None where we do not read it.

    Only these formats are ever handed to Pillow: no interpreter (EPS), no HEIF, nothing named by its extension.
    """
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM":
        return "BMP"
    if data[:4] in _TIFF_MAGIC:
        return "TIFF"
    return "AVIF" if _is_avif(data) else None


def _is_avif(data: bytes) -> bool:
    """AVIF by its brands; `mif1` alone may as well be HEIC (ISO/IEC 23008-12)."""
    brand = data[8:12]
    if data[4:8] != b"ftyp":
        return False
    return brand in (b"avif", b"avis") or (brand in (b"mif1", b"msf1") and b"avif" in data[16:64])


def header_size(data: bytes, form: str) -> tuple[int, int] | None:
    """(width, height) as written at a fixed place of the header, or None (JPEG, TIFF, AVIF, or too short).

    Pillow checks sizes too, but only after some of its decoders have taken memory for a canvas (WebP), and it
    reports a zero size as "cannot identify".
    """
    try:
        if form == "PNG":
            return struct.unpack_from(">II", data, 16)
        if form == "GIF":
            return struct.unpack_from("<HH", data, 6)
        if form == "WEBP":
            return _webp_size(data)
        if form == "BMP" and struct.unpack_from("<I", data, 14)[0] >= 40:
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)  # a negative height means the top row comes first
    except struct.error:
        return None
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Canvas size of a WebP file (RFC 9649, sections 2.5 to 2.7)."""
    kind = data[12:16]
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        return (low_w | high_w << 16) + 1, (low_h | high_h << 16) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def ends_early(data: bytes, form: str) -> bool:
    """Whether the end of the file is missing. Only asked once decoding failed: it tells cut from damaged."""
    if form == "JPEG":
        return b"\xff\xd9" not in data[-64:]
    if form == "PNG":
        return b"IEND" not in data[-64:]
    if form == "GIF":
        return b";" not in data[-16:]
    if form == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if form == "BMP":
        return len(data) < int.from_bytes(data[2:6], "little")
    return False


@dataclass(frozen=True)
class JpegScans:
    """How often a JPEG passes over its picture (ITU T.81, B.2.3)."""

    scans: int
    width: int
    height: int


# A marker is FF and a byte other than 00 (a stuffed FF) and FF (filler); RST0 to RST7 stand inside of scans.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
_SCAN, _END = 0xDA, 0xD9


def jpeg_scans(data: bytes) -> JpegScans:
    """Scans and size as the markers of a JPEG's first picture say, without decoding; what is cut off counts nothing."""
    scans = width = height = 0
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = data[found.end() - 1], found.end()
        if marker == _END:
            break
        if marker in _NO_LENGTH:
            continue
        if marker == _SCAN:
            scans += 1
        elif marker in _FRAMES and len(data) >= at + 7:
            height, width = struct.unpack_from(">HH", data, at + 3)
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return JpegScans(scans, width, height)


_KINDS = (
    (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"%!PS", "PostScript"),
    (b"\x7fELF", "a program"),
    (b"8BPS", "a Photoshop file"),
    (b"PAR1", "a Parquet file"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
)


def kind_of(data: bytes) -> str:
    """What a file that is no picture of ours looks like, in our words: nothing of its content."""
    for magic, kind in _KINDS:
        if data.startswith(magic):
            return kind
    if data[4:8] == b"ftyp":
        return "HEIC or another picture or film of that family"
    head = data[:1024].lstrip().lower()
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "SVG"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    try:
        data[:1024].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < 1020:  # not just cut inside a character
            return "unknown bytes"
    return "unknown bytes" if b"\x00" in data[:1024] else "text"
