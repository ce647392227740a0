"""Pictures as files that their content names: written where the rows are, so that pairs carry paths and no bytes."""

from __future__ import annotations

import hashlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from udfs import storage
from udfs.columns import Columns, gives
from udfs.strings import python_values

PICTURES_INPUT = Columns("id string, image binary")
PICTURE_FILES = Columns("id string, image_uri string, error string")
_ENDINGS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


@dataclass(frozen=True)
class PicturesSpec:
    """Where pictures become files: a folder that all executors can write to."""

    folder: str


@gives(PICTURE_FILES)
def write_picture_batches(
    batches: Iterator[pa.RecordBatch], *, spec: PicturesSpec
) -> Iterator[pa.RecordBatch]:
    """Write the picture of each PICTURES_INPUT row; its path, or the reason why there is none."""
    for batch in batches:
        uris: list[str | None] = []
        errors: list[str | None] = []
        for image in batch.column("image"):
            data = image.as_py()
            uri: str | None = None
            error: str | None = None
            try:
                uri = None if data is None else save_picture(data, spec.folder)
            except ValueError as problem:
                error = str(problem)
            uris.append(uri)
            errors.append(error)
        ids = pa.array(python_values(batch.column("id").cast(pa.string())), pa.string())
        yield PICTURE_FILES.batch(ids, uris, errors)


def save_picture(data: bytes, folder: str) -> str:
    """Write a picture under the hash of its bytes, once; returns its path. Raises ValueError for what is no picture."""
    ending = _ending(data)
    name = hashlib.sha256(data).hexdigest()
    uri = storage.join(storage.join(folder, name[:2]), f"{name}.{ending}")
    if not storage.exists(uri):
        with tempfile.NamedTemporaryFile() as local:
            local.write(data)
            local.flush()
            storage.publish(Path(local.name), uri)
    return uri


def _ending(data: bytes) -> str:
    """Of the file's name, by its header; the pixels are looked at by the embedder."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                kind = image.format or ""
    except (UnidentifiedImageError, Image.DecompressionBombError, Warning, OSError, ValueError):
        raise ValueError(f"{len(data)} bytes that are no picture") from None
    if kind not in _ENDINGS:
        raise ValueError(f"a picture of format {kind}; there are {', '.join(_ENDINGS)}")
    return _ENDINGS[kind]
