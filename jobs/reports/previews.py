"""Text and a small picture of rows, for pages: executors read and shrink the pictures."""

from __future__ import annotations

import functools

from pyspark.sql import DataFrame

from udfs.embed.preview import PREVIEW_INPUT, PREVIEW_OUTPUT, preview_batches
from udfs.specs import ReadSpec

Preview = tuple[str | None, bytes | None]


def previews(rows: DataFrame, *, reading: ReadSpec) -> dict[str, Preview]:
    """Text and small picture (an encoded file) by id, of rows with the columns PREVIEW_INPUT."""
    preview = functools.partial(preview_batches, spec=reading)
    inputs = rows.select(*(column.split()[0] for column in PREVIEW_INPUT.split(", ")))
    made = inputs.mapInArrow(preview, PREVIEW_OUTPUT).collect()
    return {row.id: (row.text, None if row.image is None else bytes(row.image)) for row in made}
