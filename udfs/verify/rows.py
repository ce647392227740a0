"""Where every vector row is: in which shards of an index, in its list of rows that are gone, in the table; and where twice.

Rows come in by vector_id, all of one to one task, each with the place where it was found; a shard's place is its number,
the base's first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udfs.columns import Columns, gives
from udfs.index.manifest import GONE_NAME, Manifest
from udfs.index.shard import ROWS_SUFFIX, shard_name
from udfs.index.vectors import Ints
from udfs.search.opened import ShardFiles, read_gone, read_rows
from udfs.verify.findings import FILE_KINDS, FINDING_OUTPUT, Finding, count, finding_rows
from udfs.verify.shards import VerifySpec

PLACED_ROWS = Columns("place int, vector_id bigint, id string")
# `name` and `hash` are xxhash64 of id and vector_id; the hash says which shard a row belongs into.
ACCOUNT_INPUT = Columns("place int, vector_id bigint, name bigint, hash bigint")
GONE, LIVING, LIVING_NOW = (
    -1,
    -2,
    -3,
)  # places that are no shard: named as gone; in the table at the index's version; now
VECTORS = "vectors"  # the table, where it is what is wrong
IN_BASE, IN_ADDED, ARE_GONE = "in the base", "added", "gone"
ARE_LIVING, ARE_FRESH, GONE_SINCE = "living", "fresh", "gone since"
CHUNK_ROWS = 1 << 20
_UNREADABLE = (*FILE_KINDS, "columns", "nulls")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class AccountSpec:
    """An index of so many shards, of which those `unread` could not be read; `gone_unread`: nor the list of rows gone.

    `at_version`: the rows LIVING are those of the version that the index was built from, so that it must hold each of
    them; otherwise that version is not to be had, and all that is compared is what stands in the index.
    """

    base_shards: int
    added_shards: int = 0
    unread: tuple[int, ...] = ()
    gone_unread: bool = False
    at_version: bool = True
    gone_name: str = GONE_NAME

    def file(self, shard: int) -> str:
        """Name of the file of a shard's vector_ids."""
        own = shard - self.base_shards if shard >= self.base_shards else shard
        return shard_name(own) + ROWS_SUFFIX


def account_spec(
    manifest: Manifest, findings: Iterable[Finding], *, at_version: bool
) -> AccountSpec:
    """How the rows of an index are compared of whose files `findings` were made."""
    bad = {(f.shard, f.file) for f in findings if f.kind in _UNREADABLE}
    shards = enumerate(manifest.all_shards(""))
    base = manifest.base
    gone = base.gone.name if base and base.gone else GONE_NAME
    return AccountSpec(
        base_shards=len(base.shards if base else manifest.shards),
        added_shards=len(manifest.shards) if base else 0,
        unread=tuple(n for n, (_, record) in shards if (n, record.row_ids.name) in bad),
        gone_unread=(None, gone) in bad,
        at_version=at_version,
        gone_name=gone,
    )


def parts_to_read(spec: AccountSpec) -> list[int]:
    """What `place_rows` is asked for."""
    shards = spec.base_shards + spec.added_shards
    readable = [number for number in range(shards) if number not in spec.unread]
    return readable if spec.gone_unread else [*readable, shards]


@gives(PLACED_ROWS)
def place_rows(batches: Iterator[pa.RecordBatch], *, spec: VerifySpec) -> Iterator[pa.RecordBatch]:
    """PLACED_ROWS of the shards whose numbers are in the first column; the number after the last: of the rows gone."""
    manifest = Manifest.read(spec.root, sha256=spec.manifest_sha256)
    shards = manifest.all_shards(spec.root)
    for batch in batches:
        for number in batch.column(0).to_pylist():
            if number == len(shards):
                gone = read_gone(manifest, spec.root, cache_dir=None)
                ids = pa.array([] if gone is None else gone, pa.int64())
                names = pa.nulls(len(ids), pa.string())
                yield _placed(GONE, ids, names)
                continue
            folder, record = shards[number]
            rows = read_rows(ShardFiles(record, folder, None))
            for chunk in rows.to_batches(max_chunksize=CHUNK_ROWS):
                yield _placed(number, chunk.column("vector_id"), chunk.column("id"))


@gives(FINDING_OUTPUT)
def account_batches(
    batches: Iterator[pa.RecordBatch], *, spec: AccountSpec
) -> Iterator[pa.RecordBatch]:
    """Compare ACCOUNT_INPUT rows of one partition, which has every row of its vector_ids; one batch of FINDING_OUTPUT.

    Memory is some 150 bytes a row.
    """
    found = [
        [
            b.column(n).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            for n in ACCOUNT_INPUT.names
        ]
        for b in batches
    ]
    columns = [
        np.concatenate([np.empty(0, np.int64), *parts]) for parts in zip(*found, strict=True)
    ]
    if columns:
        yield finding_rows(_Account(spec, *columns).findings())


class _Account:
    """Rows (n,) by place, and what is known of each of their vector_ids (m,)."""

    def __init__(
        self, spec: AccountSpec, place: Ints, vector_id: Ints, name: Ints, hash: Ints
    ) -> None:
        self._spec, self._place, self._name = spec, place, name
        self._ids, first, self._of = np.unique(vector_id, return_index=True, return_inverse=True)
        base, added = spec.base_shards, spec.added_shards
        self._base_home = np.mod(hash[first], base)
        self._added_home = base + np.mod(hash[first], added) if added else self._base_home
        self._in_base = self._times((place >= 0) & (place < base))
        self._in_added = self._times(place >= base)
        self._gone = self._times(place == GONE) > 0
        self._living = self._times(place == LIVING)
        self._now = self._times(place == LIVING_NOW)
        self._in_index = self._in_added + np.where(self._gone, 0, self._in_base)

    def findings(self) -> Iterator[Finding]:
        yield from self._figures()
        yield from self._in_two_places()
        yield from self._in_other_shards()
        yield from self._other_names()
        for times in (self._living, self._now):
            twice = self._ids[times > 1]
            if twice.size:
                wrong = Finding(None, VECTORS, "twice", "each vector_id once", "more often")
                yield wrong.of_rows(twice)
                break
        if not self._spec.gone_unread:
            yield from self._gone_from_nowhere()
        if self._spec.at_version:
            yield from self._missing()
            yield from self._not_living()

    def _figures(self) -> Iterator[Finding]:
        newest = self._now if (self._place == LIVING_NOW).any() else self._living
        for name, rows in (
            (IN_BASE, (self._in_base > 0) & ~self._gone),
            (IN_ADDED, self._in_added > 0),
            (ARE_GONE, self._gone),
            (ARE_LIVING, newest > 0),
            (ARE_FRESH, (newest > 0) & (self._in_index == 0)),
            (GONE_SINCE, (newest == 0) & (self._in_index > 0)),
        ):
            yield count(name, int(rows.sum()))

    def _in_two_places(self) -> Iterator[Finding]:
        """vector_ids of two shards. Of a base's row that is named as gone the one added counts alone."""
        searched = (self._place >= 0) & ~(
            (self._place < self._spec.base_shards) & self._gone[self._of]
        )
        low, high = (np.full(len(self._ids), edge) for edge in (np.iinfo(np.int64).max, -1))
        np.minimum.at(low, self._of[searched], self._place[searched])
        np.maximum.at(high, self._of[searched], self._place[searched])
        twice = (high >= 0) & (low < high)  # twice in one shard is found in that shard
        for one, other in np.unique(np.stack([low[twice], high[twice]], axis=1), axis=0):
            ids = self._ids[twice & (low == one) & (high == other)]
            for shard, second in ((int(one), int(other)), (int(other), int(one))):
                yield self._at(
                    shard,
                    "two shards",
                    "each vector_id in one shard",
                    f"also in shard {second}",
                    ids,
                )

    def _in_other_shards(self) -> Iterator[Finding]:
        """Rows that stand in another shard than their vector_id says."""
        base = self._spec.base_shards
        home = np.where(self._place < base, self._base_home[self._of], self._added_home[self._of])
        astray = (self._place >= 0) & (self._place != home)
        for shard in np.unique(self._place[astray]):
            ids = np.unique(self._ids[self._of[astray & (self._place == shard)]])
            found = "rows of other shards"
            yield self._at(
                int(shard), "other shard", "rows that belong into this shard", found, ids
            )

    def _other_names(self) -> Iterator[Finding]:
        """Rows whose id is not that of their vector_id in the table."""
        known = np.zeros(len(self._ids), np.bool_)
        names = np.zeros(len(self._ids), np.int64)
        for place in (LIVING_NOW, LIVING):
            of_table = self._place == place
            known[self._of[of_table]] = True
            names[self._of[of_table]] = self._name[of_table]
        other = (self._place >= 0) & known[self._of] & (self._name != names[self._of])
        for shard in np.unique(self._place[other]):
            ids = np.unique(self._ids[self._of[other & (self._place == shard)]])
            yield self._at(
                int(shard), "id", "the id that the table has for the vector_id", "another", ids
            )

    def _gone_from_nowhere(self) -> Iterator[Finding]:
        lost = self._gone & (self._in_base == 0) & ~self._unread(self._base_home)
        if lost.any():
            wrong = Finding(None, self._spec.gone_name, "not there", "rows of the base", "others")
            yield wrong.of_rows(self._ids[lost])

    def _missing(self) -> Iterator[Finding]:
        """Living rows that no shard has, or that are named as gone."""
        spec = self._spec
        without = (self._living > 0) & (self._in_index == 0)
        named = without & self._gone & (self._in_base > 0)
        if named.any():
            wrong = Finding(
                None, GONE_NAME, "living", "rows that the table has no more", "living ones"
            )
            yield wrong.of_rows(self._ids[named])
        lost = without & ~named & ~self._unread(self._base_home)
        if spec.added_shards:
            lost &= ~self._unread(self._added_home)
        for shard in np.unique(self._added_home[lost]):
            ids = self._ids[lost & (self._added_home == shard)]
            found = "in no shard" if spec.added_shards else "not in it"
            yield self._at(
                int(shard), "missing row", "every living row that belongs into it", found, ids
            )

    def _not_living(self) -> Iterator[Finding]:
        """Rows that the table did not have when the index was built."""
        spec, dead = self._spec, (self._living == 0) & (self._in_index > 0)
        if spec.added_shards and not spec.gone_unread:
            unnamed = dead & (self._in_base > 0) & ~self._gone
            if unnamed.any():
                wrong = Finding(
                    None, GONE_NAME, "not named", "every row of the base that is gone", "fewer"
                )
                yield wrong.of_rows(self._ids[unnamed])
        extra = (self._place >= (spec.base_shards if spec.added_shards else 0)) & dead[self._of]
        for shard in np.unique(self._place[extra]):
            ids = np.unique(self._ids[self._of[extra & (self._place == shard)]])
            found = "rows that it has not"
            yield self._at(int(shard), "extra row", "rows of its version of the table", found, ids)

    def _at(self, shard: int, kind: str, expected: str, found: str, ids: Ints) -> Finding:
        return Finding(shard, self._spec.file(shard), kind, expected, found).of_rows(ids)

    def _times(self, rows: Mask) -> Ints:
        """How often each vector_id is among some of the rows."""
        return np.bincount(self._of[rows], minlength=len(self._ids))

    def _unread(self, shards: Ints) -> Mask:
        return np.isin(shards, self._spec.unread)


def _placed(place: int, ids: pa.Array, names: pa.Array) -> pa.RecordBatch:
    return PLACED_ROWS.batch(np.full(len(ids), place), ids, names)
