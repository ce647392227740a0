"""Files of vector_ids that one task writes for one search, and all its tasks read: gone, allowed, and groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from udfs import storage
from udfs.columns import Columns, gives
from udfs.index.manifest import publish_bytes
from udfs.index.vectors import Ints
from udfs.search.groups import Groups
from udfs.strings import python_values

VECTOR_IDS = Columns("vector_id bigint")
GROUPED_IDS = Columns("vector_id bigint, value string")
WRITTEN_IDS = Columns("rows bigint, sha256 string")
_ID_DTYPE = np.dtype("<i8")
_CODE_DTYPE = np.dtype("<i4")
_MAX_BYTES = 16 << 30


@gives(WRITTEN_IDS)
def write_vector_ids(batches: Iterator[pa.RecordBatch], *, path: str) -> Iterator[pa.RecordBatch]:
    """Write VECTOR_IDS batches to one file, ascending; one row says how many there were, and the file's sha-256."""
    columns = [np.asarray(batch.column(0), dtype=_ID_DTYPE) for batch in batches]
    found = np.sort(np.concatenate([np.empty(0, _ID_DTYPE), *columns]))
    yield _publish(found.tobytes(), path, rows=len(found))


def read_vector_ids(path: str) -> Ints:
    """int64 (n,), ascending."""
    data = storage.read_bytes(path, max_bytes=_MAX_BYTES)
    return np.frombuffer(data, _ID_DTYPE).astype(np.int64)


@gives(WRITTEN_IDS)
def write_groups(batches: Iterator[pa.RecordBatch], *, path: str) -> Iterator[pa.RecordBatch]:
    """Write GROUPED_IDS batches to one file: equal values are one group; one row says how many rows have one, and
    the file's sha-256.

    A null value is no group. Values are numbered, not hashed: no two of them are ever taken for the same. Memory is
    the distinct values and 12 bytes a row.
    """
    numbers: dict[str, int] = {}
    ids, codes = [np.empty(0, _ID_DTYPE)], [np.empty(0, _CODE_DTYPE)]
    for batch in batches:
        known = batch.filter(batch.column("value").is_valid())
        values = known.column("value").dictionary_encode()
        translated = [numbers.setdefault(v, len(numbers)) for v in python_values(values.dictionary)]
        ids.append(np.asarray(known.column("vector_id"), dtype=_ID_DTYPE))
        codes.append(np.array(translated, _CODE_DTYPE)[np.asarray(values.indices, dtype=np.int64)])
    every, coded = np.concatenate(ids), np.concatenate(codes)
    order = np.argsort(every, kind="stable")
    yield _publish(every[order].tobytes() + coded[order].tobytes(), path, rows=len(every))


def read_groups(path: str) -> Groups:
    """What `write_groups` wrote."""
    data = storage.read_bytes(path, max_bytes=_MAX_BYTES)
    rows = len(data) // (_ID_DTYPE.itemsize + _CODE_DTYPE.itemsize)
    ids = np.frombuffer(data, _ID_DTYPE, count=rows).astype(np.int64, copy=False)
    codes = np.frombuffer(data, _CODE_DTYPE, count=rows, offset=rows * _ID_DTYPE.itemsize)
    return Groups(ids, codes.astype(np.int32, copy=False))


def _publish(data: bytes, path: str, *, rows: int) -> pa.RecordBatch:
    record = publish_bytes(data, *path.rsplit("/", 1))
    return WRITTEN_IDS.batch([rows], [record.sha256])
