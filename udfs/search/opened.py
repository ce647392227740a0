"""The files of one shard, verified and opened: faiss index, re-rank vectors, row ids.

A file is checked when a process opens it first, and then mapped: the kernel reads a page when a search first needs it,
and nobody compares it again. So a file that is damaged in place while it is open gives wrong hits, and one that is cut
short ends the process with SIGBUS. Nothing of ours does that (`storage.publish` puts a new file in place of an old one,
which stays whole for those who have it open); a foreign hand or a failing disk may. What would help, and what it costs
(2 shared cores, 2026-11-26):

* to stat every file again before each batch of queries: 6 µs a file. Finds what was cut or written to before the batch,
  not what is during it, nor bits that a disk changes by itself.
* to compare sha-256 again: .15 s of CPU for 256 MiB (1.7 GB a second), .7 to .9 s by the clock beside other work; a
  minute for an index of 100 GB, of which a search reads a hundredth. Tells that all was right then, not that it stays.
* to load files whole instead of mapping them, and to check the bytes that are used: safe from all of this, for the whole
  index in the memory of every Python worker, where mapped pages are shared and only those that are needed are there.

Of these nothing is done: keep indexes where only the jobs' user may write. Every new process checks every file again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udfs.errors import IndexDataError
from udfs.index.files import FileRecord, fetch_verified
from udfs.index.manifest import Manifest, ShardRecord
from udfs.index.plan import inner_index
from udfs.index.shard import REFINE_DTYPE, ROWS_SCHEMA
from udfs.index.vectors import Floats, Ints, floats_of_halves, is_in
from udfs.strings import python_values


@dataclass(frozen=True)
class OpenShard:
    """One shard ready to be searched; `first` is the number of its row 0 among the rows of all shards.

    Rows that are `gone` must not be found; None: there are none.
    """

    index: Any  # as read; owns the next
    searched: Any  # the index behind the rotation: queries are rotated once for all shards
    rows: int
    first: int
    refine: NDArray[np.float16] | None
    vector_ids: Ints
    names: pa.ChunkedArray
    name_starts: Ints
    gone: NDArray[np.bool_] | None = None

    def gather(self, local_rows: Ints) -> Floats:
        """Re-rank vectors (n, dim), unit vectors, of ascending local rows: the file is read forwards.

        Rounding to halves changes a vector's length by up to 5e-4 but hardly its direction (1 - cosine below 1.2e-7),
        so with length 1 restored its inner products are those of the float32 vector, to what float32 sums leave.
        """
        if self.refine is None:
            raise IndexDataError("this index was built without re-rank vectors (refine: none)")
        x = floats_of_halves(np.take(self.refine.view(np.ndarray), local_rows, axis=0))
        x /= np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
        return x

    def vectors(self, local_rows: Ints) -> Floats:
        """The best vectors kept (n, dim) of ascending local rows: those for re-ranking, else decoded codes.

        An inverted file without re-rank vectors cannot look rows up; faiss raises.
        """
        if self.refine is not None:
            return self.gather(local_rows)
        return np.asarray(self.index.reconstruct_batch(local_rows), dtype=np.float32)

    def row_names(self, local_rows: Ints) -> list[str]:
        """Row ids of local rows, in any order."""
        chunks = np.searchsorted(self.name_starts, local_rows, side="right") - 1
        found: list[str] = [""] * len(local_rows)
        for chunk in np.unique(chunks):
            at = np.flatnonzero(chunks == chunk)
            taken = self.names.chunk(chunk).take(pa.array(local_rows[at] - self.name_starts[chunk]))
            for position, name in zip(at, python_values(taken), strict=True):
                found[position] = name
        return found


@dataclass(frozen=True)
class ShardFiles:
    """Where a shard's files are, and where local copies of remote ones go."""

    record: ShardRecord
    root: str
    cache_dir: str | None

    def path(self, file: FileRecord) -> Path:
        """A verified local path of one file."""
        return fetch_verified(self.root, file, cache_dir=self.cache_dir)


def open_shard(
    files: ShardFiles, *, dim: int, first: int, flags: int, gone: Ints | None = None
) -> OpenShard:
    """Verifies and opens the files of one shard. Raises IndexDataError.

    `gone` are the vector_ids of rows of any shard that must not be found, ascending.
    """
    record = files.record
    index = read_faiss(files.path(record.index), record.index, flags=flags)
    table = read_rows(files)
    refine = None
    if record.refine is not None:
        path = files.path(record.refine)
        _same(
            record.refine, "bytes", record.refine.bytes, record.rows * dim * REFINE_DTYPE.itemsize
        )
        refine = _map_refine(path, record.rows, dim)
    _same(record.index, "dimensions", index.d, dim)
    _same(record.index, "rows", index.ntotal, record.rows)
    _same(record.row_ids, "rows", table.num_rows, record.rows)
    names = table["id"]
    starts = np.cumsum([0, *(len(chunk) for chunk in names.chunks)])[:-1]
    vector_ids = np.asarray(table["vector_id"].to_numpy(), dtype=np.int64)
    dead = is_in(vector_ids, gone) if gone is not None else None
    return OpenShard(
        index=index,
        searched=inner_index(index),
        rows=record.rows,
        first=first,
        refine=refine,
        vector_ids=vector_ids,
        names=names,
        name_starts=starts.astype(np.int64),
        gone=dead if dead is not None and dead.any() else None,
    )


def mapping_flags(inner: Any) -> int:
    """How faiss can map a shard of this class from its file instead of loading it; 0: it cannot."""
    if not isinstance(inner, faiss.IndexIVF):
        return int(faiss.IO_FLAG_MMAP_IFC)
    if isinstance(inner, faiss.IndexIVFFastScan):
        return 0
    return int(faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)


def read_faiss(path: Path, record: FileRecord, *, flags: int) -> Any:
    """Opens a verified faiss file."""
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise IndexDataError(
            f"faiss {faiss.__version__} cannot read {record.name} though its sha-256 is right: {error}; "
            "it was written by another version: build the index again"
        ) from error


def read_gone(manifest: Manifest, root: str, *, cache_dir: str | None) -> Ints | None:
    """vector_ids of the rows of the index that must not be found, ascending; None: there are none."""
    if manifest.base is None or manifest.base.gone is None:
        return None
    path = fetch_verified(root, manifest.base.gone, cache_dir=cache_dir)
    return np.fromfile(path, dtype="<i8").astype(np.int64, copy=False)


def read_rows(files: ShardFiles) -> pa.Table:
    """(vector_id, id) of a shard by local row, memory-mapped. Raises IndexDataError."""
    record = files.record.row_ids
    table = pa.ipc.open_file(pa.memory_map(str(files.path(record)))).read_all()
    if table.schema != ROWS_SCHEMA:
        raise IndexDataError(f"{record.name} has schema {table.schema}, expected {ROWS_SCHEMA}")
    return table


def _map_refine(path: Path, rows: int, dim: int) -> NDArray[np.float16]:
    if not rows:  # an empty file cannot be mapped
        return np.empty((0, dim), dtype=REFINE_DTYPE)
    return np.memmap(path, dtype=REFINE_DTYPE, mode="r", shape=(rows, dim))


def _same(record: FileRecord, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise IndexDataError(
            f"{record.name} has {found} {what}, the manifest says {expected}; build the index again"
        )
