"""What names the content of an image file without reading it; handed to mapInArrow for tables of image paths."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.files.image_files import stamp_images_of
from udfs.specs import ReadSpec
from udfs.strings import arrow_strings, python_values

STAMP_OUTPUT = Columns("id string, row_hash string, commit_version bigint, image_stamp string")


@gives(STAMP_OUTPUT)
def stamp_images(batches: Iterator[pa.RecordBatch], *, spec: ReadSpec) -> Iterator[pa.RecordBatch]:
    """Batches of (id, row_hash, commit_version, image_uri) to (…, image_stamp).

    The stamp is `uri|size|mtime or etag`, `uri|missing` where there is no such file (so that its later arrival is
    seen as a change), `uri|reason` where it cannot be looked at, and null where the row names no file. Ids pass
    as they are: they need not be UTF-8.
    """
    for batch in batches:
        uris = python_values(batch["image_uri"])
        made = stamp_images_of((uri for uri in uris if uri is not None), spec=spec)
        stamps = arrow_strings([None if uri is None else next(made) for uri in uris])
        yield STAMP_OUTPUT.batch(batch["id"], batch["row_hash"], batch["commit_version"], stamps)
