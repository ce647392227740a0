"""What Spark tasks do to make the full text of shards that are built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.full_text.text_index import write_full_text
from udfs.index.build import runs_of_shards, work_dir
from udfs.strings import python_values

FULL_TEXT_INPUT = Columns("shard int, vector_id bigint, text string")
FULL_TEXT_OUTPUT = Columns("shard int, rows bigint, record string")


@gives(FULL_TEXT_OUTPUT)
def full_text_batches(batches: Iterator[pa.RecordBatch], *, root: str) -> Iterator[pa.RecordBatch]:
    """Write the full text of whole shards from FULL_TEXT_INPUT rows into the folder `root`; one FULL_TEXT_OUTPUT row a
    shard: its rows, and its FileRecord as JSON.

    All rows of a shard come to one task, and together. A row with a null vector_id only names a shard.
    """
    for shard, runs in groupby(runs_of_shards(batches), key=itemgetter(0)):
        texts = (row for _, run in runs for row in _texts(run))
        record, rows = write_full_text(texts, shard=shard, root=root, work_dir=work_dir())
        yield FULL_TEXT_OUTPUT.batch([shard], [rows], [json.dumps(asdict(record))])


def _texts(rows: pa.RecordBatch) -> Iterator[tuple[int, str | None]]:
    rows = rows.filter(rows.column("vector_id").is_valid())
    ids, texts = rows.column("vector_id").to_pylist(), python_values(rows.column("text"))
    return zip(ids, texts, strict=True)
