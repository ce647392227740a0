"""`data:` URIs (RFC 2397): the content stands in the URI itself."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

_SPACE = re.compile(rb"[\t\n\f\r ]+")


class DataUriError(ValueError):
    """A `data:` URI cannot be decoded."""


class DataUriTooLargeError(DataUriError):
    """A `data:` URI has more bytes than the caller allows; it was not decoded."""


def is_data_uri(uri: str) -> bool:
    """Whether `uri` is a data URI."""
    return uri[:5].lower() == "data:"


def data_uri_bytes(uri: str, *, max_bytes: int) -> bytes:
    """What a data URI holds: base64 (blanks and missing padding are no error) or percent-encoded.

    Raises DataUriTooLargeError before anything is decoded, DataUriError for what is no data URI.
    """
    head, comma, body = uri[5:].partition(",")
    if not comma:
        raise DataUriError("the data URI has no comma between its type and its content")
    coded = head.replace(" ", "").lower().endswith(";base64")
    # %XX: three characters a byte, which base64 may be written in too.
    least = (len(body) - 2 * body.count("%")) * (3 if coded else 4) // 4
    if least > max_bytes + 3:
        raise DataUriTooLargeError(
            f"the data URI has about {least} bytes; the limit is {max_bytes}"
        )
    data = unquote_to_bytes(body)
    if coded:
        data = _SPACE.sub(b"", data).rstrip(b"=")
        try:
            data = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
        except binascii.Error as error:
            raise DataUriError(f"the data URI is not valid base64: {error}") from None
    if len(data) > max_bytes:
        raise DataUriTooLargeError(f"the data URI has {len(data)} bytes; the limit is {max_bytes}")
    return data
