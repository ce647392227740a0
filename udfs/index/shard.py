"""Builds one shard of an index from a stream of vectors, with bounded memory."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

import faiss
import numpy as np
import pyarrow as pa

from udfs import storage
from udfs.errors import IndexDataError
from udfs.index.files import FileRecord, record_file
from udfs.index.manifest import ShardRecord
from udfs.index.resume import publish_record
from udfs.index.threads import faiss_threads
from udfs.index.vectors import Floats, Ints, halves_of_floats, unit_vectors

ROWS_SCHEMA = pa.schema(
    [pa.field("vector_id", pa.int64(), nullable=False), pa.field("id", pa.string(), nullable=False)]
)
FAISS_SUFFIX, REFINE_SUFFIX, ROWS_SUFFIX = ".faiss", ".f16", ".rows.arrow"
REFINE_DTYPE = np.dtype("<f2")


def shard_name(shard: int) -> str:
    """Stem of a shard's files."""
    return f"shard-{shard:05d}"


class ShardWriter:
    """`with ShardWriter(...) as writer: writer.add(...)...; record = writer.finish()`.

    Local row = order of arrival. Memory is the codes of the shard, 8 bytes a vector_id, and the block at
    hand: re-rank vectors and row ids go to files in `work_dir` as they come. Nothing appears in `root`
    before `finish`, and nothing is left in `work_dir` after the block. Not for several threads.
    """

    def __init__(
        self,
        quantizer: bytes,
        *,
        shard: int,
        root: str,
        work_dir: str | None = None,
        refine: Literal["fp16", "none"] = "fp16",
        threads: int = 1,
    ) -> None:
        self._index = faiss.deserialize_index(np.frombuffer(quantizer, dtype=np.uint8))
        self._quantizer_sha256 = hashlib.sha256(quantizer).hexdigest()
        self._shard, self._root, self._threads = shard, root, threads
        self._work = Path(tempfile.mkdtemp(prefix=f"{shard_name(shard)}-", dir=work_dir))
        self._rows = pa.ipc.new_file(str(self._path(ROWS_SUFFIX)), ROWS_SCHEMA)
        self._refine: BinaryIO | None = None
        if refine == "fp16":
            self._refine = self._path(REFINE_SUFFIX).open("wb")
        self._seen: list[Ints] = []

    def add(self, vector_ids: Ints, ids: Sequence[str] | pa.Array, xb: Floats) -> None:
        """Appends rows: vector_ids int64 (n,), ids n strings, xb float32 (n, dim) unit vectors.

        Raises IndexDataError for lengths that differ, null ids, negative vector_ids, and vectors that
        are not finite or not of norm 1; the shard is then to be given up.
        """
        vector_ids = np.ascontiguousarray(vector_ids, dtype=np.int64)
        names = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
        what = f"vectors of {shard_name(self._shard)}"
        xb = unit_vectors(xb, self._index.d, what=what)
        if not len(vector_ids) == len(names) == len(xb):
            raise IndexDataError(
                f"{what}: {len(vector_ids)} vector_ids, {len(names)} ids and {len(xb)} vectors; "
                "there must be as many of each"
            )
        if names.null_count:
            raise IndexDataError(f"{what}: {names.null_count} row ids are null; filter them out")
        if vector_ids.size and vector_ids.min() < 0:
            raise IndexDataError(
                f"{what}: vector_id {vector_ids.min()} is negative; ids start at 0"
            )
        if not vector_ids.size:
            return
        with faiss_threads(self._threads):
            self._index.add(xb)
            if self._refine is not None:
                self._refine.write(halves_of_floats(xb).data)
        columns = [pa.array(vector_ids), names.cast(pa.string())]
        self._rows.write_batch(pa.record_batch(columns, schema=ROWS_SCHEMA))
        self._seen.append(vector_ids.copy())

    def finish(self) -> ShardRecord:
        """Checks, checksums and publishes the files, then their record; the record goes into the manifest.

        Raises IndexDataError where a vector_id came twice.
        """
        self._refuse_duplicates()
        self._rows.close()
        if self._refine is not None:
            self._refine.close()
        faiss.write_index(self._index, str(self._path(FAISS_SUFFIX)))
        record = ShardRecord(
            shard=self._shard,
            rows=int(self._index.ntotal),
            quantizer_sha256=self._quantizer_sha256,
            index=self._publish(FAISS_SUFFIX),
            row_ids=self._publish(ROWS_SUFFIX),
            refine=self._publish(REFINE_SUFFIX) if self._refine is not None else None,
        )
        publish_record(record, self._root)
        return record

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rows.close()
        if self._refine is not None:
            self._refine.close()
        shutil.rmtree(self._work)

    def _path(self, suffix: str) -> Path:
        return self._work / (shard_name(self._shard) + suffix)

    def _publish(self, suffix: str) -> FileRecord:
        path = self._path(suffix)
        record = record_file(path)
        storage.publish(path, storage.join(self._root, path.name))
        return record

    def _refuse_duplicates(self) -> None:
        if not self._seen:
            return
        ordered = np.concatenate(self._seen)
        self._seen.clear()
        ordered.sort()
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise IndexDataError(
                f"{shard_name(self._shard)}: {twice.size} vector_ids came twice, such as {twice[0]}; "
                "select each row of `vectors` once"
            )
