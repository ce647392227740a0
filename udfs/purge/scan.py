"""The look into files for ids that are purged, their vector_ids and their vectors: by what a file holds, not by its name."""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from udfs import storage
from udfs.columns import Columns, gives
from udfs.full_text.text_index import FULL_TEXT_SUFFIX
from udfs.index.build import work_dir
from udfs.index.manifest import MANIFEST_NAME
from udfs.index.shard import FAISS_SUFFIX, REFINE_SUFFIX, ROWS_SUFFIX
from udfs.index.vectors import is_in
from udfs.purge.traces import LEARNT, Traces, read_traces
from udfs.strings import arrow_strings, python_values

SCAN_INPUT = Columns("path string, columns array<string>, same_lake boolean")
SCAN_OUTPUT = Columns("path string, place string, kind string, rows bigint, ids array<string>")
EXAMPLES = 3  # ids that a finding names
ID, TEXT, VECTOR_ID, VECTOR, UNREADABLE, UNTOLD = (
    "id",
    "id in a text",
    "vector_id",
    "vector",
    "unreadable",
    "cannot be told",
)
_VECTOR_IDS = {"vector_id", "vector_ids", "own", "replaced_id"}
_SHARD = re.compile(r"shard-(\d{5})")
_PARQUET, _ARROW = b"PAR1", b"ARROW1"
# What the log of a table says of its columns, their names and comments, are no rows: an id may be one of those words.
_LOG = "/_delta_log/"
_SCHEMA_PLACES = {"metaData.schemaString", "metaData.description"}
_TEXT = r'"(?:[^"\\]|\\.)*"'
_OF_SCHEMA = re.compile(
    rf'"schemaString":{_TEXT}|"meta[dD]ata":\{{"id":{_TEXT},"description":{_TEXT}'
)
_HEAD = 4096  # bytes by which a text is told
_BLOCK = 8 << 20


@dataclass(frozen=True)
class Match:
    """An id, or what was made of it, in one file: in which column or part, as what, how often, which ids where that
    is known.
    """

    path: str
    place: str
    kind: str
    rows: int = 1
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        ids = f" ({', '.join(self.ids)})" if self.ids else ""
        return f"{self.path}{place}: {self.kind}, {self.rows:,} time(s){ids}"


@gives(SCAN_OUTPUT)
def scan_batches(batches: Iterator[pa.RecordBatch], *, traces: str) -> Iterator[pa.RecordBatch]:
    """Look into the files of SCAN_INPUT rows for what the file `traces` names; SCAN_OUTPUT rows.

    `columns` are those of a table in which ids may stand; null: all. vector_ids count in files of the `same_lake` alone.
    A file that is gone by now has nothing in it. Memory is the strings of a row group, or 8 MiB of another file.
    """
    wanted = read_traces(traces)
    for batch in batches:
        for row in batch.to_pylist():
            found = scan_file(
                row["path"], wanted, columns=row["columns"], same_lake=row["same_lake"]
            )
            rows = [vars(one) | {"ids": list(one.ids)} for one in found]
            yield pa.RecordBatch.from_pylist(rows, schema=SCAN_OUTPUT.arrow)


@gives(LEARNT)
def learn_batches(batches: Iterator[pa.RecordBatch], *, traces: str) -> Iterator[pa.RecordBatch]:
    """vector_ids, contents and vectors of ids, out of the files of SCAN_INPUT rows that have them: of `vectors`, row
    maps.
    """
    wanted = read_traces(traces)
    for batch in batches:
        for path in batch.column("path").to_pylist():
            unreadable = contextlib.suppress(FileNotFoundError, pa.ArrowInvalid)  # the scan tells
            with tempfile.TemporaryDirectory(dir=work_dir()) as folder, unreadable:
                yield from _learn(_local(path, Path(folder)), wanted)


def _learn(local: Path, wanted: Traces) -> Iterator[pa.RecordBatch]:
    """LEARNT rows of one file. Vectors are read only where an id stands."""
    names = arrow_strings(sorted(wanted.ids))
    for part in _parts(local):
        if not {"id", "vector_id"} <= set(part.names):
            return
        here = pc.is_in(part.read(["id"])["id"].cast(pa.string()), value_set=names)
        if not pc.any(here).as_py():
            continue
        rows = part.read([name for name in LEARNT.names if name in part.names]).filter(here)
        columns = [
            rows[field.name].cast(field.type).combine_chunks()
            if field.name in rows.column_names
            else pa.nulls(rows.num_rows, field.type)
            for field in LEARNT.arrow
        ]
        yield LEARNT.batch(*columns)


def scan_file(
    path: str, wanted: Traces, *, columns: list[str] | None = None, same_lake: bool = True
) -> list[Match]:
    """What one file holds of what is wanted. Raises OSError where its place cannot be reached."""
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        try:
            local = _local(path, Path(folder))
            if local.stat().st_size == 0:
                return []
            return _scan_local(path, local, wanted, columns, same_lake)
        except FileNotFoundError:
            return []
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeError) as error:
            return [Match(path, str(error)[:200], UNREADABLE)]


def _scan_local(
    path: str, local: Path, wanted: Traces, columns: list[str] | None, same_lake: bool
) -> list[Match]:
    with local.open("rb") as stream:
        head = stream.read(_HEAD)
    if head.startswith((_PARQUET, _ARROW)):
        return _scan_table(path, local, wanted, columns, same_lake)
    if _is_text(head):
        return _scan_text(path, local, wanted)
    if path.endswith((FAISS_SUFFIX, REFINE_SUFFIX, FULL_TEXT_SUFFIX)) and _row_map_beside(path):
        return []  # the row map says which rows they are
    data = np.memmap(local, dtype=np.uint8, mode="r").data
    found = []
    if rows := wanted.in_bytes(data):
        found.append(Match(path, "", VECTOR, rows))
    if ids := wanted.in_binary(data):
        found.append(Match(path, "", TEXT, len(ids), tuple(ids[:EXAMPLES])))
    if not found and path.endswith(FAISS_SUFFIX) and not _is_whole_index(path):
        place = "no row map and no manifest tell which rows it is made of"
        found.append(Match(path, place, UNTOLD))
    return found


def _scan_table(
    path: str, local: Path, wanted: Traces, columns: list[str] | None, same_lake: bool
) -> list[Match]:
    """Every string of every column; vector_ids; and vectors, where no column says whose they are."""
    found: dict[tuple[str, str], Match] = {}
    for part in _parts(local):
        by_content = not {"id", "vector_id"} & set(part.names)
        names = [
            field.name
            for field in part.schema
            if field.name in _VECTOR_IDS
            or (_has(field.type, _is_string) and (columns is None or field.name in columns))
            or (by_content and _has(field.type, pa.types.is_floating))
        ]
        table = part.read(names)
        for name in names:
            for chunk in table[name].chunks:
                for place, values in _leaves(name, chunk):
                    if _LOG in path and place in _SCHEMA_PLACES:
                        continue
                    one = _scan_values(path, place, values, wanted, same_lake=same_lake)
                    if one is not None:
                        before = found.get((place, one.kind))
                        found[place, one.kind] = one if before is None else _add(before, one)
    return list(found.values())


def _scan_values(
    path: str, place: str, values: pa.Array, wanted: Traces, *, same_lake: bool
) -> Match | None:
    """What the values of one column, or of one part of it, hold."""
    kind, top = values.type, place.split(".")[0]
    if _is_string(kind):
        hits = wanted.in_column(values.cast(pa.string()))
        if not hits.any():
            return None
        named = values.filter(pa.array(hits))
        ids = wanted.find_named(named[:EXAMPLES].cast(pa.string()))
        exact = set(python_values(named[:EXAMPLES])) <= wanted.ids
        return Match(path, place, ID if exact else TEXT, int(hits.sum()), tuple(ids[:EXAMPLES]))
    if pa.types.is_int64(kind) and same_lake and top in _VECTOR_IDS:
        known = values.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
        rows = int(is_in(known, wanted.vector_ids).sum())
        return Match(path, place, VECTOR_ID, rows) if rows else None
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        flat = np.ascontiguousarray(values.drop_null().to_numpy(zero_copy_only=False))
        rows = wanted.in_bytes(memoryview(flat.tobytes()))
        return Match(path, place, VECTOR, rows) if rows else None
    return None


def _leaves(name: str, column: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """The values of a column, those within lists, structs and maps by the names of the parts."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _leaves(name, column.cast(kind.value_type))
    elif pa.types.is_struct(kind):
        for field, values in zip(kind, column.flatten(), strict=True):
            yield from _leaves(f"{name}.{field.name}", values)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{name}.key", column.keys)
        yield from _leaves(f"{name}.value", column.items)
    elif (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        yield from _leaves(name, column.flatten())
    elif len(column):
        yield name, column


def _scan_text(path: str, local: Path, wanted: Traces) -> list[Match]:
    """Line by line: HTML, JSON, JSONL, CSV, logs, and what commits of Delta say of their files."""
    rows, ids = 0, set[str]()
    with local.open("rb") as stream:
        while lines := stream.readlines(_BLOCK):
            decoded = [line.decode("utf-8", "surrogateescape") for line in lines]
            if _LOG in path:
                decoded = [_OF_SCHEMA.sub("", line) for line in decoded]
            texts = arrow_strings(decoded)
            hits = wanted.in_column(texts)
            rows += int(hits.sum())
            ids.update(
                wanted.find_named(texts.filter(pa.array(hits))[:EXAMPLES]) if hits.any() else ()
            )
    return [Match(path, "", TEXT, rows, tuple(sorted(ids)[:EXAMPLES]))] if rows else []


@dataclass(frozen=True)
class _Part:
    """A row group of a Parquet file, or a batch of an Arrow file."""

    schema: pa.Schema
    read: Callable[[list[str]], pa.Table]

    @property
    def names(self) -> list[str]:
        return list(self.schema.names)


def _parts(local: Path) -> Iterator[_Part]:
    with local.open("rb") as stream:
        head = stream.read(len(_ARROW))
    if head.startswith(_PARQUET):
        with pq.ParquetFile(local) as file:
            for number in range(file.num_row_groups):
                yield _Part(file.schema_arrow, functools.partial(_read_group, file, number))
        return
    with pa.memory_map(str(local)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            table = pa.Table.from_batches([reader.get_batch(number)])
            yield _Part(table.schema, table.select)


def _read_group(file: pq.ParquetFile, number: int, names: list[str]) -> pa.Table:
    return file.read_row_group(number, columns=names)


def _has(kind: pa.DataType, wanted: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type, or a part of it, is one that is wanted; pictures are not read."""
    if pa.types.is_dictionary(kind):
        return _has(kind.value_type, wanted)
    parts = [kind.field(number).type for number in range(kind.num_fields)]
    return any(_has(part, wanted) for part in parts) if parts else bool(wanted(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _add(one: Match, other: Match) -> Match:
    ids = tuple(sorted({*one.ids, *other.ids})[:EXAMPLES])
    return Match(one.path, one.place, one.kind, one.rows + other.rows, ids)


def _is_text(head: bytes) -> bool:
    """Whether a file begins as a text does; its last character may be cut."""
    try:
        head[:-3].decode() if len(head) == _HEAD else head.decode()
    except UnicodeDecodeError as error:
        return len(head) == _HEAD and error.start >= _HEAD - 6
    return b"\0" not in head


def _row_map_beside(path: str) -> bool:
    """Whether a row map of the same shard lies in the folder of a shard's file."""
    folder, _, name = path.rpartition("/")
    shard = _SHARD.search(name)
    beside = storage.names(folder) if shard else []
    return any(n.endswith(ROWS_SUFFIX) and shard[0] in n for n in beside if shard)


def _is_whole_index(path: str) -> bool:
    return storage.exists(storage.join(path.rpartition("/")[0], MANIFEST_NAME))


def _local(path: str, folder: Path) -> Path:
    """A local path of a file; a remote one is copied into `folder`. Raises FileNotFoundError."""
    local = storage.local_path(path)
    if local is None:
        local = folder / "file"
        storage.fetch(path, local)
    return local
