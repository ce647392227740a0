"""Picture bytes that are broken on purpose, in the ways real catalogues break."""

from __future__ import annotations

import struct
import zlib
from typing import Literal

Fault = Literal["truncated", "html", "no_bytes", "bomb"]
FAULTS: tuple[Fault, ...] = ("truncated", "html", "no_bytes", "bomb")

_HTML = b"""<!DOCTYPE html>
<html><head><title>404 Not Found</title></head>
<body><h1>Not Found</h1><p>The picture you asked for has moved.</p></body></html>
"""


def break_picture(jpeg: bytes, *, fault: Fault) -> bytes:
    """What a shop's image column holds instead of `jpeg`.

    `truncated` is a download cut after 60 %; `html` an error page saved as a picture; `no_bytes` an empty value;
    `bomb` a valid PNG header that claims 60,000 × 60,000 pixels (3.6 billion) in under a hundred bytes.
    """
    if fault == "truncated":
        return jpeg[: int(len(jpeg) * 0.6)]
    if fault == "html":
        return _HTML
    return b"" if fault == "no_bytes" else _bomb(60_000)


def _bomb(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # 8 bit RGB, not interlaced
    data = zlib.compress(b"\0" * 64)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
