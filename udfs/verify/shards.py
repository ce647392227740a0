"""The check of an index's shards: bytes, structure, and sampled rows against the vectors that the table stores.

A file whose length or sha-256 is wrong is never opened: faiss loads damaged files without a word, or hangs. Its one
finding stands for all that is wrong in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from udfs import storage
from udfs.columns import Columns, gives
from udfs.errors import IndexDataError
from udfs.full_text.text_index import FullText
from udfs.index.build import work_dir
from udfs.index.drift import quantizer_error
from udfs.index.files import FileRecord, file_sha256
from udfs.index.manifest import VECTOR_ID_BYTES, Manifest, ShardRecord
from udfs.index.plan import build_empty, inner_index
from udfs.index.shard import REFINE_DTYPE, ROWS_SCHEMA
from udfs.index.threads import faiss_threads
from udfs.index.vectors import NORM_TOLERANCE, Floats, Ints, floats_of, floats_of_halves
from udfs.search.check import find_lost
from udfs.search.index import Index
from udfs.search.opened import ShardFiles, mapping_flags, open_shard, read_faiss
from udfs.verify.codes import describe, kept_distances, list_rows, trained_parts
from udfs.verify.findings import FINDING_OUTPUT, Finding, count, finding_rows

VERIFY_INPUT = Columns("shard int, vector_id bigint, embedding array<float>")
SAMPLED = "sampled rows"
BLOCK_ROWS = 65_536
HALF_NORM = 1e-3  # what rounding to halves may add to NORM_TOLERANCE
HALF_SHARE, HALF_STEP = (
    2.0**-11,
    2.0**-25,
)  # of a value, and of the smallest ones: what rounding may change
ERROR_ROWS = 30  # of a sample, at least, for their mean error to be told
MAX_ERROR = 1.5  # of sampled rows, in errors of the rows that the quantizer was trained on
# A code's squared distance from its vector, against that of the code which the quantizer gives: other machines add up in
# another order, and take the other of two codes that are equally near.
CODE_SHARE, CODE_TOLERANCE = 1.05, 1e-3


@dataclass(frozen=True)
class VerifySpec:
    """An index in the folder `root`, and its manifest's sha-256 as the table `indexes` has it."""

    root: str
    manifest_sha256: str | None = None


@dataclass(frozen=True)
class Sample:
    """Rows that a shard may hold: vector_ids int64 (n,) and their stored vectors x float32 (n, dim)."""

    vector_ids: Ints
    x: Floats


@gives(FINDING_OUTPUT)
def verify_batches(
    batches: Iterator[pa.RecordBatch], *, spec: VerifySpec
) -> Iterator[pa.RecordBatch]:
    """Check the shards named by VERIFY_INPUT rows, with the stored vectors in those rows; FINDING_OUTPUT rows.

    Rows of a shard come to one task; one with a null vector_id only names a shard. Rows that the shard has not are
    passed over: who counts rows finds them. The number after the last shard's stands for the files that all shards share.
    Memory is one shard as a search opens it, and 24 bytes for each of its rows.
    """
    manifest = Manifest.read(spec.root, sha256=spec.manifest_sha256)
    samples: dict[int, list[Sample]] = {}
    for batch in batches:
        numbers = batch.column("shard").to_numpy(zero_copy_only=False)
        for number in np.unique(numbers):
            rows = batch.filter(pa.array(numbers == number))
            rows = rows.filter(rows.column("vector_id").is_valid())
            ids = rows.column("vector_id").to_numpy(zero_copy_only=False).astype(np.int64)
            x = floats_of(rows.column("embedding"), manifest.spec.dim, what="sampled vectors")
            samples.setdefault(int(number), []).append(Sample(ids, x))
    for number, parts in sorted(samples.items()):
        sample = Sample(
            np.concatenate([part.vector_ids for part in parts]),
            np.concatenate([part.x for part in parts]),
        )
        yield finding_rows(verify_part(manifest, number, sample))


def verify_part(manifest: Manifest, number: int, sample: Sample) -> list[Finding]:
    """What is wrong with one shard, or, by the number after the last, with quantizer and list of rows that are gone."""
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder, faiss_threads(1):
        if number == len(manifest.all_shards(manifest.spec.root)):
            return _Shared(manifest, Path(folder)).findings(sample)
        return _Shard(manifest, number, Path(folder)).findings(sample)


def find_file(
    root: str, record: FileRecord, *, shard: int | None, folder: Path
) -> tuple[Path | None, list[Finding]]:
    """A local path with the recorded bytes, copied into `folder` where the file is remote; or None, and what is wrong.

    The bytes are read whatever was read of them before.
    """

    def wrong(kind: str, expected: str, found: str) -> tuple[None, list[Finding]]:
        return None, [Finding(shard, record.name, kind, expected, found)]

    source = storage.join(root, record.name)
    try:
        length = storage.stat(source)[0]
    except FileNotFoundError:
        return wrong("missing", f"{record.bytes} bytes", "no file")
    if length != record.bytes:
        return wrong("length", f"{record.bytes} bytes", f"{length} bytes")
    local = storage.local_path(source)
    if local is None:
        local = folder / record.name
        storage.fetch(source, local)
    found = file_sha256(local)
    if found != record.sha256:
        return wrong("sha256", record.sha256, found)
    return local, []


@dataclass
class _Shared:
    """The quantizer, and the list of rows that are gone."""

    manifest: Manifest
    folder: Path

    def findings(self, sample: Sample) -> list[Finding]:
        return [*self._quantizer(sample), *self._gone()]

    def _quantizer(self, sample: Sample) -> Iterator[Finding]:
        manifest, record, spec = self.manifest, self.manifest.quantizer, self.manifest.spec
        path, wrong = find_file(
            manifest.base_root(spec.root), record, shard=None, folder=self.folder
        )
        yield from wrong
        if path is None:
            return
        try:
            index = read_faiss(path, record, flags=0)
        except IndexDataError as error:
            yield Finding(None, record.name, "unreadable", "a faiss index", str(error))
            return
        wanted, found = describe(_expected(manifest)), describe(index)
        if index.d != spec.dim:
            yield _differ(None, record, "dimension", spec.dim, index.d)
        elif found != wanted:
            yield _differ(None, record, "factory", wanted, found)
        elif index.ntotal or not index.is_trained:
            state = f"{index.ntotal} rows, {'trained' if index.is_trained else 'not trained'}"
            yield _differ(None, record, "rows", "0 rows, trained", state)
        elif manifest.error is not None and len(sample.x) >= ERROR_ROWS:
            lost = quantizer_error(path.read_bytes(), sample.x)
            if lost is not None and not lost <= MAX_ERROR * manifest.error:
                wanted = f"{manifest.error:.4g} of a squared length lost, {MAX_ERROR:g} times as much at most"
                yield _differ(None, record, "error", wanted, f"{lost:.4g} of sampled vectors")

    def _gone(self) -> Iterator[Finding]:
        base = self.manifest.base
        if base is None or base.gone is None:
            return
        path, wrong = find_file(self.manifest.spec.root, base.gone, shard=None, folder=self.folder)
        yield from wrong
        if path is None:
            return
        if base.gone.bytes % VECTOR_ID_BYTES:
            whole = f"a multiple of {VECTOR_ID_BYTES} bytes"
            yield _differ(None, base.gone, "length", whole, f"{base.gone.bytes} bytes")
            return
        yield from _not_ascending(None, base.gone, np.fromfile(path, dtype="<i8"))


@dataclass
class _Shard:
    """One shard's files, each opened where its bytes are right."""

    manifest: Manifest
    number: int
    folder: Path
    wrong: list[Finding] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)

    def findings(self, sample: Sample) -> list[Finding]:
        root, record = self._place()
        for file in record.files:
            path, wrong = find_file(root, file, shard=self.number, folder=self.folder)
            self.wrong += wrong
            if path is not None:
                self.paths[file.name] = path
        vector_ids = self._read_rows(record)
        self._verify_halves(record, vector_ids)
        self._verify_full_text(record)
        quantizer = self._read_quantizer()
        index = self._read_index(record, quantizer)
        if vector_ids is None or len(vector_ids) != record.rows:
            return self.wrong
        order = np.argsort(vector_ids, kind="stable")
        at = np.searchsorted(vector_ids, sample.vector_ids, sorter=order)
        at = order[np.minimum(at, len(order) - 1)] if len(order) else np.empty(0, np.int64)
        held = vector_ids[at] == sample.vector_ids if len(order) else np.zeros(0, np.bool_)
        ids, x, rows = sample.vector_ids[: len(held)][held], sample.x[: len(held)][held], at[held]
        structure = not self.wrong
        self._verify_vectors(record, ids, x, rows)
        if index is not None and quantizer is not None:
            self._verify_codes(record, index, quantizer, ids, x, rows)
            if structure:
                self._search(record, quantizer, ids, x)
        return [*self.wrong, count(SAMPLED, len(ids))]

    def _place(self) -> tuple[str, ShardRecord]:
        return self.manifest.all_shards(self.manifest.spec.root)[self.number]

    def _add(self, record: FileRecord, kind: str, expected: Any, found: Any) -> None:
        self.wrong.append(_differ(self.number, record, kind, expected, found))

    def _add_rows(
        self, record: FileRecord, kind: str, expected: str, found: str, ids: Ints
    ) -> None:
        if ids.size:
            self.wrong.append(_differ(self.number, record, kind, expected, found).of_rows(ids))

    def _read_rows(self, record: ShardRecord) -> Ints | None:
        file = record.row_ids
        path = self.paths.get(file.name)
        if path is None:
            return None
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid as error:
            self._add(file, "unreadable", "an Arrow file", error)
            return None
        if table.schema != ROWS_SCHEMA:
            self._add(file, "columns", _columns(ROWS_SCHEMA), _columns(table.schema))
            return None
        if table.num_rows != record.rows:
            self._add(file, "rows", record.rows, table.num_rows)
        if nulls := table["id"].null_count + table["vector_id"].null_count:
            self._add(file, "nulls", 0, nulls)
        vector_ids: Ints = table["vector_id"].to_numpy().astype(np.int64)
        self._add_rows(file, "negative", "vector_ids from 0 on", "less", vector_ids[vector_ids < 0])
        self.wrong += _not_ascending(self.number, file, vector_ids)
        return vector_ids

    def _verify_full_text(self, record: ShardRecord) -> None:
        """The texts can be searched, and are of as many rows."""
        file = record.full_text
        if file is None or (path := self.paths.get(file.name)) is None:
            return
        try:
            rows = FullText.open(path).rows
        except IndexDataError as error:
            self._add(file, "unreadable", "a tantivy index", error)
            return
        if rows != record.rows:
            self._add(file, "rows", record.rows, rows)

    def _verify_halves(self, record: ShardRecord, vector_ids: Ints | None) -> None:
        """Every re-rank vector is finite and of length 1."""
        file, dim = record.refine, self.manifest.spec.dim
        if file is None or (path := self.paths.get(file.name)) is None:
            return
        row_bytes = dim * REFINE_DTYPE.itemsize
        if file.bytes != record.rows * row_bytes:
            self._add(file, "rows", f"{record.rows} of {dim} halves", f"{file.bytes} bytes")
            return
        bad: dict[str, list[Ints]] = {"not finite": [], "norm": []}
        with path.open("rb") as stream:
            for start in range(0, record.rows, BLOCK_ROWS):
                data = stream.read(min(BLOCK_ROWS, record.rows - start) * row_bytes)
                halves = np.frombuffer(data, REFINE_DTYPE).reshape(-1, dim)
                finite = np.isfinite(halves).all(axis=1)
                x = floats_of_halves(halves)
                off = np.abs(np.sqrt(np.einsum("ij,ij->i", x, x)) - 1) > NORM_TOLERANCE + HALF_NORM
                bad["not finite"].append(np.flatnonzero(~finite) + start)
                bad["norm"].append(np.flatnonzero(finite & off) + start)
        for kind, expected, found in (
            ("not finite", "finite values", "NaN or infinite ones"),
            ("norm", "vectors of length 1", "others"),
        ):
            rows = np.concatenate([np.empty(0, np.int64), *bad[kind]])
            ids = rows
            if vector_ids is not None and len(vector_ids) == record.rows:
                ids = vector_ids[rows]
            self._add_rows(file, kind, expected, found, ids)

    def _read_quantizer(self) -> Any:
        """The quantizer, or None where it is damaged: that is a finding of its own."""
        manifest = self.manifest
        root = manifest.base_root(manifest.spec.root)
        path, _ = find_file(root, manifest.quantizer, shard=None, folder=self.folder)
        if path is None:
            return None
        try:
            return read_faiss(path, manifest.quantizer, flags=0)
        except IndexDataError:
            return None

    def _read_index(self, record: ShardRecord, quantizer: Any) -> Any:
        """The shard's faiss index, or None where it is not one that can be searched with the quantizer."""
        file, dim = record.index, self.manifest.spec.dim
        path = self.paths.get(file.name)
        if path is None:
            return None
        planned = _expected(self.manifest)  # owns what inner_index gives
        try:
            index = read_faiss(path, file, flags=mapping_flags(inner_index(planned)))
        except IndexDataError as error:
            self._add(file, "unreadable", "a faiss index", error)
            return None
        wanted, found = describe(planned), describe(index)
        if index.d != dim:
            self._add(file, "dimension", dim, index.d)
            return None
        if found != wanted:
            self._add(file, "factory", wanted, found)
            return None
        if index.ntotal != record.rows:
            self._add(file, "rows", record.rows, index.ntotal)
        rows = list_rows(index)
        if rows is not None and not np.array_equal(np.sort(rows), np.arange(index.ntotal)):
            found = f"{len(rows)} in the lists, {len(np.unique(rows))} different"
            self._add(file, "local rows", f"each of 0 to {index.ntotal - 1} once", found)
        if quantizer is not None and describe(quantizer) == wanted:
            own, shared = trained_parts(index), trained_parts(quantizer)
            if differing := [name for name, sha in own.items() if shared[name] != sha]:
                found = f"other {', '.join(differing)}"
                self._add(file, "quantizer", f"those of {self.manifest.quantizer.name}", found)
                return None
        return index if index.ntotal == record.rows else None

    def _verify_vectors(self, record: ShardRecord, ids: Ints, x: Floats, rows: Ints) -> None:
        """Sampled re-rank vectors are the stored ones, rounded to halves."""
        file, dim = record.refine, self.manifest.spec.dim
        if file is None or not len(ids) or (path := self.paths.get(file.name)) is None:
            return
        if file.bytes != record.rows * dim * REFINE_DTYPE.itemsize:
            return
        halves = np.memmap(path, dtype=REFINE_DTYPE, mode="r", shape=(record.rows, dim))[rows]
        near = np.abs(halves.astype(np.float32) - x) <= HALF_SHARE * np.abs(x) + HALF_STEP
        bad = ids[~near.all(axis=1)]
        self._add_rows(file, "vector", "the stored vector in half precision", "another", bad)

    def _verify_codes(
        self, record: ShardRecord, index: Any, quantizer: Any, ids: Ints, x: Floats, rows: Ints
    ) -> None:
        """What the shard keeps of sampled vectors is what its quantizer makes of them."""
        if not len(ids) or describe(quantizer) != describe(index):
            return
        quantizer.add(x)
        best = kept_distances(quantizer, np.arange(len(x)), x)
        quantizer.reset()
        kept = kept_distances(index, rows, x)
        far = ~(kept <= CODE_SHARE * best + CODE_TOLERANCE)
        if not far.any():
            return
        lost = self.manifest.error
        of_index = "" if lost is None else f" (the quantizer's error is {lost:.4g})"
        self._add_rows(
            record.index,
            "code",
            f"squared distances from the stored vectors up to {best[far].max():.4g}{of_index}",
            f"up to {kept[far].max():.4g}" if np.isfinite(kept[far]).all() else "not in their list",
            ids[far],
        )

    def _search(self, record: ShardRecord, quantizer: Any, ids: Ints, x: Floats) -> None:
        """Sampled vectors find themselves."""
        if not len(ids):
            return
        manifest, spec = self.manifest, self.manifest.spec
        alone = replace(spec, plan=replace(spec.plan, shards=1))
        files = _VerifiedFiles(record, "", None, self.paths)
        flags = mapping_flags(inner_index(quantizer))
        opened = open_shard(files, dim=spec.dim, first=0, flags=flags)
        one = Manifest(alone, manifest.quantizer, (replace(record, shard=0),))
        lost = find_lost(Index(one, quantizer, (opened,)), vector_ids=ids, xq=x)
        self._add_rows(
            record.index, "search", "stored vectors that find themselves", "others", ids[lost]
        )


@dataclass(frozen=True)
class _VerifiedFiles(ShardFiles):
    """Files whose bytes were compared a moment ago."""

    paths: dict[str, Path]

    def path(self, file: FileRecord) -> Path:
        return self.paths[file.name]


def _expected(manifest: Manifest) -> Any:
    """The empty index of the plan, of the classes that a file of it is read as."""
    spec = manifest.spec
    empty = build_empty(spec.plan.factory, spec.dim, metric=spec.plan.metric)
    return faiss.deserialize_index(faiss.serialize_index(empty))


def _differ(shard: int | None, record: FileRecord, kind: str, expected: Any, found: Any) -> Finding:
    return Finding(shard, record.name, kind, str(expected), str(found))


def _not_ascending(shard: int | None, record: FileRecord, vector_ids: Ints) -> Iterator[Finding]:
    """Findings of vector_ids that come twice, or after larger ones."""
    steps = np.diff(vector_ids)
    down = vector_ids[1:][steps < 0]
    if down.size:
        yield _differ(shard, record, "order", "vector_ids ascending", "after larger ones").of_rows(
            down
        )
        steps = np.diff(np.sort(vector_ids))
        vector_ids = np.sort(vector_ids)
    twice = np.unique(vector_ids[1:][steps == 0])
    if twice.size:
        yield _differ(shard, record, "twice", "each vector_id once", "more often").of_rows(twice)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
