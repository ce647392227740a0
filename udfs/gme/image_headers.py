"""What an image file says about itself before it is decoded: format, size, and whether its end is missing."""

from __future__ import annotations

import struct

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
