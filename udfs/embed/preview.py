"""Small pictures of rows for reports; handed to mapInArrow, so that the driver never holds the large ones."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow as pa

from udfs.errors import ImageRejected, RowRejected
from udfs.files.image_files import read_image
from udfs.gme.images import decode_image
from udfs.specs import ReadSpec
from udfs.strings import python_values

PREVIEW_INPUT = "id string, text string, image binary, image_uri string"
PREVIEW_OUTPUT = "id string, text string, image binary"
PREVIEW_SIDE = 320  # pixels of the longer side, at most
_OUTPUT = pa.schema([("id", pa.string()), ("text", pa.string()), ("image", pa.binary())])


def preview_batches(
    batches: Iterator[pa.RecordBatch], *, spec: ReadSpec
) -> Iterator[pa.RecordBatch]:
    """PREVIEW_INPUT batches to PREVIEW_OUTPUT: pictures become JPEGs of at most PREVIEW_SIDE pixels.

    A file that cannot be read gives null. Bytes that are no good picture pass as they are: the page says why.
    """
    for batch in batches:
        columns = (batch.column("image").to_pylist(), python_values(batch.column("image_uri")))
        images = [_small(image, uri, spec) for image, uri in zip(*columns, strict=True)]
        made = [batch.column("id"), batch.column("text"), pa.array(images, pa.binary())]
        yield pa.RecordBatch.from_arrays(made, schema=_OUTPUT)


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
        return image
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()
