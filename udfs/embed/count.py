"""How many tokens rows have for a model, without the model: texts are tokenised, of pictures the header is read."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.embed.batches import Rows, load_preparer
from udfs.errors import RowRejected
from udfs.files.image_files import read_images
from udfs.gme.prepare import TokenCount
from udfs.specs import EmbedSpec

COUNT_OUTPUT = Columns("key string, text_tokens int, picture_tokens int")


@gives(COUNT_OUTPUT)
def count_batches(
    batches: Iterator[pa.RecordBatch], *, spec: EmbedSpec
) -> Iterator[pa.RecordBatch]:
    """Batches of EMBED_INPUT to COUNT_OUTPUT, rows in input order. Rows that the model will not see have no tokens.

    A picture that turns out damaged only when it is decoded is counted all the same. Raises CheckpointError where the
    tokenizer cannot be read.
    """
    preparer = load_preparer(spec.model.path, spec.model.profile)
    for batch in batches:
        rows = Rows(batch)
        files = read_images(rows.uris_to_read(), spec=spec.reading)
        counts = []
        for number in range(batch.num_rows):
            try:
                counts.append(preparer.count(rows.row(number, files)))
            except RowRejected:
                counts.append(TokenCount(0, 0))
        yield COUNT_OUTPUT.batch(
            rows.keys, [count.text for count in counts], [count.picture for count in counts]
        )
