"""Small pictures for reports: bounded JPEG data URIs, or the reason why there is none."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from udfs.errors import ImageRejected
from udfs.gme.images import decode_image

SIDE = 160  # pixels of the longer side, at most
MAX_BYTES = 7_000  # of one JPEG; 550 of them in base64 are 5.2 MB
# (side, JPEG quality), tried in order until the picture fits: noise and fine texture need the later ones.
_STEPS = ((SIDE, 82), (SIDE, 65), (SIDE, 45), (112, 45), (80, 30))


@dataclass(frozen=True)
class Thumbnail:
    """`src` is a data URI, or None where `reason` (short) and `detail` say why there is no picture."""

    src: str | None = None
    reason: str = ""
    detail: str = ""


def thumbnail(data: bytes | None) -> Thumbnail:
    """A JPEG of at most `SIDE` pixels and about `MAX_BYTES` from an encoded picture. Never raises for bad data."""
    if data is None:
        return Thumbnail(detail="the row has no picture")
    try:
        picture = decode_image(data)
    except ImageRejected as error:
        return Thumbnail(reason=error.reason.replace("_", " "), detail=error.detail)
    jpeg = b""
    for side, quality in _STEPS:
        picture.thumbnail((side, side))  # in place, keeps the shape, never enlarges
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality, optimize=True)
        jpeg = out.getvalue()
        if len(jpeg) <= MAX_BYTES:
            break
    return Thumbnail(src="data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"))
