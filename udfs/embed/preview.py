"""Small pictures of rows for reports; handed to mapInArrow, so that the driver never holds the large ones."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.errors import ImageRejected, RowRejected
from udfs.files.image_files import read_image
from udfs.gme.images import decode_image
from udfs.specs import ReadSpec
from udfs.strings import python_values

PREVIEW_INPUT = Columns("id string, text string, image binary, image_uri string")
PREVIEW_OUTPUT = Columns("id string, text string, image binary")
PREVIEW_SIDE = 320  # pixels of the longer side, at most
_BAD_BYTES = 1 << 20  # enough to say what is wrong; the driver holds those of a page at once


@gives(PREVIEW_OUTPUT)
def preview_batches(
    batches: Iterator[pa.RecordBatch], *, spec: ReadSpec
) -> Iterator[pa.RecordBatch]:
    """PREVIEW_INPUT batches to PREVIEW_OUTPUT: pictures become JPEGs of at most PREVIEW_SIDE pixels.

    A file that cannot be read gives null. Of bytes that are no good picture the beginning passes: the page says why.
    """
    for batch in batches:
        columns = (batch.column("image").to_pylist(), python_values(batch.column("image_uri")))
        images = [_small(image, uri, spec) for image, uri in zip(*columns, strict=True)]
        yield PREVIEW_OUTPUT.batch(batch.column("id"), batch.column("text"), images)


def _small(image: bytes | None, uri: str | None, spec: ReadSpec) -> bytes | None:
    if image is None and uri is not None:
        try:
            image = read_image(uri, spec=spec)
        except RowRejected:
            return None
    if image is None:
        return None
    try:
        picture = decode_image(image)
    except ImageRejected:
        return image[:_BAD_BYTES]
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()
