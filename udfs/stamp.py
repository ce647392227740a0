"""What names the content of an image file without reading it; handed to mapInArrow for tables of image paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

STAMP_OUTPUT = "id STRING, row_hash STRING, commit_version BIGINT, image_stamp STRING"


def stamp_images(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of (id, row_hash, commit_version, image_uri) to (…, image_stamp).

    The stamp is `uri|size|mtime or etag`, `uri|missing` where there is no such file (so that its later arrival is
    seen as a change), and null where the row names no file.
    """
    import pyarrow as pa

    from udfs import storage

    def stamp(uri: str | None) -> str | None:
        if uri is None:
            return None
        try:
            size, version = storage.stat(uri)
        except FileNotFoundError:
            return f"{uri}|missing"
        except OSError as error:
            return f"{uri}|{type(error).__name__}"
        return f"{uri}|{size}|{version}"

    for batch in batches:
        stamps = pa.array([stamp(uri) for uri in batch["image_uri"].to_pylist()], pa.string())
        columns = [batch["id"], batch["row_hash"], batch["commit_version"], stamps]
        yield pa.RecordBatch.from_arrays(
            columns, ["id", "row_hash", "commit_version", "image_stamp"]
        )
