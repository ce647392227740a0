"""What a purge looks for: ids, the vector_ids that they had, and their vectors."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from udfs import storage
from udfs.columns import Columns
from udfs.index.manifest import publish_bytes
from udfs.index.vectors import Floats, Ints, halves_of_floats
from udfs.strings import arrow_strings, python_values

LEARNT = Columns("id string, vector_id bigint, content_hash string, embedding array<float>")
TRACES = Columns("id string, vector_id bigint, embedding array<float>")
TRACES_NAME = "traces.arrow"
_MAX_BYTES = 4 << 30
# In a text, `thing-7` is a name wherever it stands between other characters than letters; `p7` only in quotes or markup,
# as it may be any word; `7` only where the text says that it is an id: in JSON, and in our pages.
_WORD, _SHORT_NUMBER = 4, 8
_BYTES = 6  # of an id, at least, for it not to stand in a file of other bytes by chance
_ALTERNATIVES = 500  # of one pattern: RE2 bounds its size
_BLOCK = 8 << 20  # bytes of a file that are compared at a time


@dataclass(frozen=True)
class Traces:
    """`ids` that are purged, the `vector_ids` int64 (n,) ascending that they have or had, and `vectors` float32 (d,).

    Vectors that rows of other ids have as well are not among `vectors`: those stay.
    """

    ids: frozenset[str]
    vector_ids: Ints
    vectors: tuple[Floats, ...]

    @classmethod
    def of(cls, ids: Iterable[str], known: pa.Table, *, shared: Iterable[bytes] = ()) -> Traces:
        """Of ids and what is known of them, LEARNT or TRACES rows; `shared` are the vectors, as bytes, that others
        have too.
        """
        keep = set(shared)
        vector_ids = known["vector_id"].drop_null().to_numpy().astype(np.int64)
        found = {
            np.asarray(v, np.float32).tobytes() for v in known["embedding"].drop_null().to_pylist()
        }
        vectors = (np.frombuffer(data, np.float32) for data in sorted(found - keep))
        return cls(frozenset(ids), np.unique(vector_ids), tuple(vectors))

    def write(self, folder: str) -> str:
        """Publish them as one file in a folder; returns its path."""
        ids = sorted(self.ids)
        rows = max(len(ids), len(self.vector_ids), len(self.vectors))
        columns = [
            arrow_strings(_fill(ids, rows)),
            pa.array(_fill(self.vector_ids.tolist(), rows), pa.int64()),
            pa.array(_fill(self.vectors, rows), pa.list_(pa.float32())),
        ]
        out = io.BytesIO()
        with pa.ipc.new_file(out, TRACES.arrow) as writer:
            writer.write_batch(TRACES.batch(*columns))
        publish_bytes(out.getvalue(), folder, TRACES_NAME)
        return storage.join(folder, TRACES_NAME)

    def in_column(self, column: pa.Array) -> NDArray[np.bool_]:
        """Which values of a string column are one of the ids, or name one as a text does."""
        found = pc.is_in(column, value_set=self._names)
        for pattern in self._patterns:
            found = pc.or_(found, pc.fill_null(pc.match_substring_regex(column, pattern), False))
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)

    def find_named(self, column: pa.Array) -> list[str]:
        """Which of the ids the values of a string column are or name; for few values."""
        values = python_values(column)
        texts = arrow_strings([value for value in values if value not in self.ids])
        found = self.ids & set(values)
        if len(texts):
            alone = {i: Traces(frozenset([i]), self.vector_ids, ()) for i in self.ids - found}
            found |= {i for i, one in alone.items() if one.in_column(texts).any()}
        return sorted(found)

    def in_bytes(self, data: memoryview) -> int:
        """How many times one of the vectors stands in the bytes of a file, as floats or halves, wherever it begins."""
        found = 0
        for form in self._forms:
            for start in range(0, len(data), _BLOCK):
                found += form.count(data[start : start + _BLOCK + form.longest - 1], starts=_BLOCK)
        return found

    def in_binary(self, data: memoryview) -> list[str]:
        """Which ids stand in the bytes of a file of no known format; short ones may stand there by chance."""
        long = {name: name.encode() for name in self.ids if len(name.encode()) >= _BYTES}
        alone = {n: rb"(?<!\w)" + re.escape(coded) + rb"(?!\w)" for n, coded in long.items()}
        return sorted(name for name, pattern in alone.items() if re.search(pattern, data))

    @cached_property
    def patterns(self) -> tuple[tuple[str, str, str], ...]:
        """What in a text names an id: what is before, the ids, what is after; for RE2 and for Java."""
        spelled = {name: _spellings(name) for name in self.ids}
        words: list[str] = []
        short: list[str] = []
        numbers: list[str] = []
        for name, ways in spelled.items():
            if name.isdecimal() and len(name) < _SHORT_NUMBER:
                numbers += ways
            elif len(name) < _WORD:
                short += ways
            else:
                words += ways
        kinds = (
            (r"(?:^|\W)", words, r"(?:\W|$)"),
            (r"""["'>]""", short, r"""["'<\\]"""),
            (r"""(?:class="id">\s*|["']id\\?["']\s*:\s*\\?["']?)""", numbers, r"(?:\W|$)"),
        )
        return tuple(
            (before, "|".join(re.escape(name) for name in part), after)
            for before, names, after in kinds
            for part in _parts(sorted(names))
        )

    @cached_property
    def _patterns(self) -> tuple[str, ...]:
        return tuple(f"{before}(?:{names}){after}" for before, names, after in self.patterns)

    @cached_property
    def _names(self) -> pa.Array:
        return arrow_strings(sorted(self.ids))

    @cached_property
    def _forms(self) -> tuple[_Form, ...]:
        floats = [v.astype("<f4").tobytes() for v in self.vectors if len(v) > 1]
        halves = [halves_of_floats(v[None]).tobytes() for v in self.vectors if len(v) > 1]
        return tuple(_Form(tuple(made)) for made in (floats, halves) if made)


@dataclass(frozen=True)
class _Form:
    """Vectors as bytes. Four bytes of each are looked for first: those that are least likely to stand there by chance."""

    vectors: tuple[bytes, ...]

    @property
    def longest(self) -> int:
        return max(map(len, self.vectors))

    @cached_property
    def _by_key(self) -> dict[int, list[tuple[int, bytes]]]:
        found: dict[int, list[tuple[int, bytes]]] = {}
        for vector in self.vectors:
            words = np.frombuffer(vector[: len(vector) // 4 * 4], "<u4")
            at = int(np.argmax(words != 0))
            found.setdefault(int(words[at]), []).append((4 * at, vector))
        return found

    def count(self, data: memoryview, *, starts: int) -> int:
        """How often one of the vectors begins in the first `starts` bytes."""
        keys = np.array(sorted(self._by_key), dtype=np.uint32)
        found = 0
        for shift in range(4):
            words = np.frombuffer(data[shift : shift + (len(data) - shift) // 4 * 4], "<u4")
            for position in np.flatnonzero(np.isin(words, keys)):
                at = shift + 4 * int(position)
                for offset, vector in self._by_key[int(words[position])]:
                    begin = at - offset
                    if 0 <= begin < starts and data[begin : begin + len(vector)] == vector:
                        found += 1
        return found


@lru_cache(maxsize=4)
def read_traces(path: str) -> Traces:
    """What `Traces.write` wrote; read once a process, for all files that it looks at."""
    data = storage.read_bytes(path, max_bytes=_MAX_BYTES)
    table = pa.ipc.open_file(io.BytesIO(data)).read_all()
    ids = python_values(table["id"].drop_null())
    return Traces.of(ids, table)


def _fill(values: Sequence[Any], length: int) -> list[Any]:
    return [*values, *[None] * (length - len(values))]


def _parts(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _ALTERNATIVES):
        yield names[start : start + _ALTERNATIVES]


def _spellings(name: str) -> list[str]:
    """A name as texts write it: as it is, in JSON, in HTML."""
    coded = [json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1], html.escape(name)]
    return sorted({name, *coded})
