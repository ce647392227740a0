"""Text and a small picture of rows, for pages: executors read and shrink the pictures."""

from __future__ import annotations

from pyspark.sql import DataFrame

from jobs.driver.on_executors import on_executors
from udfs.embed.preview import PREVIEW_INPUT, preview_batches
from udfs.specs import ReadSpec

Preview = tuple[str | None, bytes | None]


def previews(rows: DataFrame, *, reading: ReadSpec) -> dict[str, Preview]:
    """Text and small picture (an encoded file) by id, of rows with the columns PREVIEW_INPUT."""
    made = on_executors(rows.select(*PREVIEW_INPUT.names), preview_batches, spec=reading).rows()
    return {row.id: (row.text, None if row.image is None else bytes(row.image)) for row in made}
