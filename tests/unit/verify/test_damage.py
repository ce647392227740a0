"""Every kind of damage to an index is found, and found where it is; nothing is found in a whole one."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest

from tests.unit.search.indexes import build, clustered, extend, flip, names_of, small_ivf_plan
from udfs.index.drift import quantizer_error
from udfs.index.files import record_file
from udfs.index.manifest import GONE_NAME, QUANTIZER_NAME, Manifest
from udfs.index.plan import default_plan
from udfs.index.shard import ROWS_SCHEMA, ShardWriter
from udfs.index.train import train_quantizer
from udfs.verify.findings import COUNTED, Finding
from udfs.verify.manifest import compare_rows, find_manifest
from udfs.verify.rows import (
    ACCOUNT_INPUT,
    LIVING,
    AccountSpec,
    account_batches,
    account_spec,
    parts_to_read,
    place_rows,
)
from udfs.verify.shards import SAMPLED, VerifySpec, verify_batches

DIM, ROWS, SHARDS = 48, 1400, 2
XB = clustered(ROWS, DIM)
FIRST = 1000
IDS = np.arange(ROWS, dtype=np.int64) + FIRST
NEW = clustered(90, DIM, seed=3)
NEW_IDS = np.arange(90, dtype=np.int64) + FIRST + ROWS
GONE_IDS = np.array([FIRST, FIRST + 5, FIRST + 700], dtype=np.int64)


def hash_of(vector_ids):
    """What places a row here; the job's own hash is tested with the job."""
    return np.asarray(vector_ids) * 2654435761 % 2**32


class Damaged:
    """An index in a folder, and what a table has of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = Manifest.read(str(root))
        base = self.manifest.base
        ids, x = IDS, XB
        if base is not None:
            ids, x = np.concatenate([IDS, NEW_IDS]), np.concatenate([XB, NEW])
            if base.gone is not None:
                x, ids = x[~np.isin(ids, GONE_IDS)], ids[~np.isin(ids, GONE_IDS)]
        self.living, self.x = ids, x
        self.names = names_of(ids)

    def path(self, name: str) -> Path:
        return self.root / name

    def shard(self, number: int):
        return self.manifest.shards[number]

    def record(self, name: str) -> None:
        """Let the manifest say what lies there now: as a wrong build does, or a hand that knows how."""
        new = record_file(self.path(name))
        shards = tuple(
            replace(
                shard,
                index=new if shard.index.name == name else shard.index,
                row_ids=new if shard.row_ids.name == name else shard.row_ids,
                refine=new if shard.refine and shard.refine.name == name else shard.refine,
            )
            for shard in self.manifest.shards
        )
        self.manifest = replace(self.manifest, shards=shards)
        if self.manifest.quantizer.name == name:
            shards = tuple(replace(s, quantizer_sha256=new.sha256) for s in shards)
            self.manifest = replace(self.manifest, quantizer=new, shards=shards)
        if (base := self.manifest.base) is not None and name == GONE_NAME:
            self.manifest = replace(self.manifest, base=replace(base, gone=new))
        self.manifest.write(str(self.root))

    def write_rows(self, shard: int, vector_ids, names=None) -> None:
        columns = [pa.array(vector_ids, pa.int64()), pa.array(names or names_of(vector_ids))]
        name = self.shard(shard).row_ids.name
        with pa.ipc.new_file(str(self.path(name)), ROWS_SCHEMA) as file:
            file.write_batch(pa.record_batch(columns, schema=ROWS_SCHEMA))
        self.record(name)

    def vector_ids(self, shard: int):
        table = pa.ipc.open_file(str(self.path(self.shard(shard).row_ids.name))).read_all()
        return table["vector_id"].to_numpy().copy()

    def halves(self, shard: int):
        file = self.path(self.shard(shard).refine.name)
        return np.memmap(file, "<f2", "r+", shape=(self.shard(shard).rows, DIM))

    def build_shard(self, shard: int, quantizer: bytes, vector_ids, x) -> None:
        """A shard of other rows, or by another quantizer, which the manifest takes for its own."""
        own = self.shard(shard)
        with ShardWriter(quantizer, shard=own.shard, root=str(self.root)) as writer:
            writer.add(np.asarray(vector_ids), names_of(vector_ids), x)
            record = writer.finish()
        record = replace(record, quantizer_sha256=own.quantizer_sha256)
        shards = tuple(record if s.shard == own.shard else s for s in self.manifest.shards)
        self.manifest = replace(self.manifest, shards=shards)
        self.manifest.write(str(self.root))

    def rows_of(self, shard: int):
        """vector_ids and vectors of a whole index's shard."""
        ids = self.vector_ids(shard)
        return ids, XB[ids - FIRST]


def of_rows(damaged: Damaged, numbers: np.ndarray) -> pa.RecordBatch:
    """VERIFY_INPUT rows of the shards: some of the table's rows, and one that names each."""
    at = np.linspace(0, len(damaged.living) - 1, 300).astype(int)
    ids, x = damaged.living[at].tolist(), damaged.x[at].tolist()
    rows = [(int(n), i, v) for n in numbers for i, v in zip(ids, x, strict=True)]
    rows += [(int(n), None, None) for n in numbers]
    shard, vector_id, embedding = zip(*rows, strict=True)
    return pa.record_batch(
        [
            pa.array(shard, pa.int32()),
            pa.array(vector_id, pa.int64()),
            pa.array(embedding, pa.list_(pa.float32())),
        ],
        names=["shard", "vector_id", "embedding"],
    )


def read(batches) -> list[Finding]:
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [Finding(**row | {"vector_ids": tuple(row["vector_ids"])}) for row in rows]


def verify(damaged: Damaged, **table) -> list[Finding]:
    """What the tasks of a verification find: of shards, then of rows."""
    spec = VerifySpec(str(damaged.root))
    shards = damaged.manifest.all_shards(str(damaged.root))
    found = read(verify_batches(iter([of_rows(damaged, np.arange(len(shards) + 1))]), spec=spec))
    account = account_spec(damaged.manifest, found, at_version=True)
    parts = pa.record_batch([pa.array(parts_to_read(account))], names=["shard"])
    placed = place_rows(iter([parts]), spec=spec)
    found += read(account_batches(accounted(placed, damaged, **table), spec=account))
    return found


def accounted(placed, damaged: Damaged, *, living=None, names=None):
    """ACCOUNT_INPUT of the rows that stand in the index, and of those of the table."""
    hashes = {}
    named = lambda name: hashes.setdefault(name, len(hashes))  # noqa: E731
    living = damaged.living if living is None else living
    rows = [(r["place"], r["vector_id"], r["id"]) for batch in placed for r in batch.to_pylist()]
    rows += [
        (LIVING, i, n) for i, n in zip(living.tolist(), names or names_of(living), strict=True)
    ]
    columns = ACCOUNT_INPUT.names
    for start in range(0, len(rows), 400):
        place, vector_id, name = zip(*rows[start : start + 400], strict=True)
        names_ = [None if n is None else named(n) for n in name]
        yield pa.record_batch(
            [pa.array(place), pa.array(vector_id), pa.array(names_), pa.array(hash_of(vector_id))],
            names=columns,
        )


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A whole index, and one that adds to it."""
    folder = tmp_path_factory.mktemp("pristine")
    plan = small_ivf_plan(ROWS, DIM, shards=SHARDS, nlist=8)
    base = build(folder / "base", XB, plan, first=FIRST)
    error = quantizer_error((folder / "base" / QUANTIZER_NAME).read_bytes(), XB)
    base = replace(base, error=error, spec=replace(base.spec, index_id="base"))
    base.write(str(folder / "base"))
    extend(Manifest.read(str(folder / "base")), folder / "added", GONE_IDS, NEW, FIRST + ROWS)
    return folder


@pytest.fixture
def whole(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return Damaged(tmp_path / "base")


@pytest.fixture
def added(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return Damaged(tmp_path / "added")


F0, F1 = "shard-00000.faiss", "shard-00001.faiss"
H0, H1 = "shard-00000.f16", "shard-00001.f16"
R0, R1 = "shard-00000.rows.arrow", "shard-00001.rows.arrow"


def quantizer_of(damaged: Damaged, factory: str | None = None, seed: int = 5) -> bytes:
    """One trained on other vectors."""
    plan = damaged.manifest.spec.plan
    if factory is not None:
        plan = default_plan(ROWS, DIM, factory=factory)
    return train_quantizer(clustered(ROWS, DIM, seed=seed), plan, threads=1)


def cut(name):
    return lambda d: d.path(name).write_bytes(d.path(name).read_bytes()[:-7])


def flipped(name):
    return lambda d: flip(d.path(name), d.path(name).stat().st_size // 2)


def removed(name):
    return lambda d: d.path(name).unlink()


def swapped(one, other):
    def swap(d):
        kept = d.path(one).read_bytes()
        d.path(one).write_bytes(d.path(other).read_bytes())
        d.path(other).write_bytes(kept)

    return swap


def written(name, data):
    def write(d):
        d.path(name).write_bytes(data)
        d.record(name)

    return write


def half(row, change):
    def write(d):
        halves = d.halves(1)
        halves[row] = change(halves)
        halves.flush()
        d.record(H1)

    return write


def rows_file(shard, change, names=lambda ids: None):
    def write(d):
        ids = change(d.vector_ids(shard))
        d.write_rows(shard, ids, names(ids))

    return write


def built(shard, change, quantizer=None):
    """A shard made of other rows: `change(ids, x) -> (ids, x)`."""

    def write(d):
        data = d.path(QUANTIZER_NAME).read_bytes() if quantizer is None else quantizer(d)
        d.build_shard(shard, data, *change(*d.rows_of(shard)))

    return write


def only_index(write):
    """The faiss file alone of what a damage writes; the other files of the shard stay."""

    def damage(d):
        kept = {name: d.path(name).read_bytes() for name in (H1, R1)}
        record = d.shard(1)
        write(d)
        for name, data in kept.items():
            d.path(name).write_bytes(data)
        shards = tuple(replace(s, rows=record.rows) for s in d.manifest.shards)
        d.manifest = replace(d.manifest, shards=(d.manifest.shards[0], shards[1]))
        for name in (H1, R1):
            d.record(name)

    return damage


def index_with_ids(d):
    """Local rows that are not 0 to n - 1."""
    ids, x = d.rows_of(1)
    data = d.path(QUANTIZER_NAME).read_bytes()
    index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    local = np.arange(len(ids))
    local[3] = 4
    index.add_with_ids(x, local)
    faiss.write_index(index, str(d.path(F1)))
    d.record(F1)


def other_dim(d):
    x = clustered(700, 32)
    build(d.root.parent / "narrow", x, default_plan(700, 32, factory="IVF8,SQ8"))
    shutil.copy(d.root.parent / "narrow" / F0, d.path(F1))
    d.record(F1)


def other_quantizer(d):
    """Quantizer and shards of vectors that are nothing like these."""
    half_empty = np.zeros((ROWS, DIM), np.float32)
    half_empty[:, :12] = clustered(ROWS, 12)
    data = train_quantizer(half_empty, d.manifest.spec.plan, threads=1)
    d.path(QUANTIZER_NAME).write_bytes(data)
    d.record(QUANTIZER_NAME)
    for shard in (0, 1):
        d.build_shard(shard, data, *d.rows_of(shard))


def an_extra_row(ids, x):
    new = next(n for n in range(90_000, 90_100) if hash_of(n) % SHARDS == 1)
    return np.append(ids, new), np.vstack([x, x[:1]])


def with_row_of_the_other(ids, x):
    one = next(i for i in IDS[7:] if hash_of(i) % SHARDS == 0)
    at = np.searchsorted(ids, one)
    return np.insert(ids, at, one), np.insert(x, at, XB[one - FIRST], axis=0)


# Damage to a whole index, and every finding that it makes: shard, file and kind.
WHOLE = {
    "truncated": (cut(F0), {(0, F0, "length")}),
    "flipped": (flipped(H1), {(1, H1, "sha256")}),
    "flipped index": (flipped(F0), {(0, F0, "sha256")}),
    "flipped ids": (flipped(R1), {(1, R1, "sha256")}),
    "missing": (removed(R0), {(0, R0, "missing")}),
    "swapped": (swapped(H0, H1), {(0, H0, "sha256"), (1, H1, "sha256")}),
    "quantizer lost": (removed(QUANTIZER_NAME), {(None, QUANTIZER_NAME, "missing")}),
    "quantizer flipped": (flipped(QUANTIZER_NAME), {(None, QUANTIZER_NAME, "sha256")}),
    "no index": (written(F1, b"no index"), {(1, F1, "unreadable")}),
    "no Arrow file": (written(R1, b"no Arrow file"), {(1, R1, "unreadable")}),
    "halves of fewer rows": (written(H1, b"\0" * 960), {(1, H1, "rows")}),
    "extra row": (built(1, an_extra_row), {(1, R1, "extra row")}),
    "missing row": (built(1, lambda ids, x: (ids[1:], x[1:])), {(1, R1, "missing row")}),
    "id twice": (
        rows_file(0, lambda ids: np.sort(np.append(ids[1:], ids[1]))),
        {(0, R0, "twice"), (0, R0, "missing row")},
    ),
    "id in two shards": (
        built(1, with_row_of_the_other),
        {(0, R0, "two shards"), (1, R1, "two shards"), (1, R1, "other shard")},
    ),
    "wrong order": (built(0, lambda ids, x: (ids[::-1], x[::-1])), {(0, R0, "order")}),
    "negative id": (
        rows_file(0, lambda ids: np.append(-ids[:1], ids[1:])),
        {(0, R0, "negative"), (0, R0, "missing row"), (0, R0, "extra row")},
    ),
    "other name": (
        rows_file(1, lambda ids: ids, lambda ids: ["foe", *names_of(ids[1:])]),
        {(1, R1, "id")},
    ),
    "NaN": (half(3, lambda halves: np.nan), {(1, H1, "not finite")}),
    "infinite": (half(3, lambda halves: np.inf), {(1, H1, "not finite")}),
    "norm 2": (half(3, lambda halves: 2 * halves[3]), {(1, H1, "norm")}),
    "other vectors": (
        half(slice(None), lambda halves: halves[::-1].copy()),
        {(1, H1, "vector"), (1, F1, "search")},
    ),
    "vectors exchanged": (
        built(1, lambda ids, x: (ids, x[::-1])),
        {(1, H1, "vector"), (1, F1, "code"), (1, F1, "search")},
    ),
    "codes exchanged": (
        only_index(built(1, lambda ids, x: (ids, x[::-1]))),
        {(1, F1, "code"), (1, F1, "search")},
    ),
    "fewer codes": (only_index(built(1, lambda ids, x: (ids[9:], x[9:]))), {(1, F1, "rows")}),
    "other dimension": (other_dim, {(1, F1, "dimension")}),
    "other factory": (
        built(1, lambda ids, x: (ids, x), lambda d: quantizer_of(d, "IVF8,SQ8")),
        {(1, F1, "factory")},
    ),
    "other lists": (
        built(1, lambda ids, x: (ids, x), lambda d: quantizer_of(d, "OPQ8_32,IVF4,PQ8x4fs")),
        {(1, F1, "factory")},
    ),
    "shard of another quantizer": (
        built(1, lambda ids, x: (ids, x), quantizer_of),
        {(1, F1, "quantizer")},
    ),
    "local rows": (index_with_ids, {(1, F1, "local rows")}),
    "all of another quantizer": (other_quantizer, {(None, QUANTIZER_NAME, "error")}),
}


def located(findings):
    return {(f.shard, f.file, f.kind) for f in findings if f.kind != COUNTED}


def test_nothing_is_found_in_whole_indexes(whole, added):
    found = verify(whole)
    assert not located(found)
    assert sum(f.rows for f in found if f.file == SAMPLED) == 300
    figures = {f.file: f.rows for f in verify(added) if f.kind == COUNTED}
    assert not located(verify(added))
    assert (figures["in the base"], figures["added"], figures["gone"]) == (1397, 90, 3)
    assert (figures["living"], figures["fresh"], figures["gone since"]) == (1487, 0, 0)


@pytest.mark.parametrize("name", WHOLE)
def test_damage_to_a_whole_index_is_found_where_it_is(whole, name):
    damage, wanted = WHOLE[name]
    damage(whole)
    assert located(verify(whole)) == wanted


def gone(change):
    def write(d):
        d.path(GONE_NAME).write_bytes(change(GONE_IDS.astype("<i8")).tobytes())
        d.record(GONE_NAME)

    return write


def of_added(change):
    """The added shard made of other rows."""

    def write(d):
        data = (d.root.parent / "base" / QUANTIZER_NAME).read_bytes()
        d.build_shard(0, data, *change(NEW_IDS, NEW))

    return write


def in_base(damage):
    return lambda d: damage(Damaged(d.root.parent / "base"))


# The same for an index that adds to another: shards 0 and 1 are the base's, 2 is its own.
ADDED = {
    "gone list lost": (removed(GONE_NAME), {(None, GONE_NAME, "missing")}),
    "gone list cut": (cut(GONE_NAME), {(None, GONE_NAME, "length")}),
    "half an id": (
        gone(lambda ids: np.frombuffer(ids.tobytes()[:-2], np.uint8)),
        {(None, GONE_NAME, "length")},
    ),
    "not there": (gone(lambda ids: np.append(ids, 99_999)), {(None, GONE_NAME, "not there")}),
    "not named": (gone(lambda ids: ids[:2]), {(None, GONE_NAME, "not named")}),
    "living ones named": (
        gone(lambda ids: np.append(ids, FIRST + 900)),
        {(None, GONE_NAME, "living")},
    ),
    "gone in disorder": (gone(lambda ids: ids[::-1]), {(None, GONE_NAME, "order")}),
    "gone twice": (gone(lambda ids: ids[[0, 0, 1, 2]]), {(None, GONE_NAME, "twice")}),
    "row of the base added": (
        of_added(lambda ids, x: (np.append(IDS[9:10], ids), np.vstack([XB[9:10], x]))),
        {(n, f, "two shards") for n, f in ((int(hash_of(IDS[9]) % 2), None), (2, R0))},
    ),
    "added row missing": (
        of_added(lambda ids, x: (ids[1:], x[1:])),
        {(2, R0, "missing row")},
    ),
    "unknown row added": (
        of_added(lambda ids, x: (np.append(ids, 99_999), np.vstack([x, x[:1]]))),
        {(2, R0, "extra row")},
    ),
    "added codes flipped": (flipped(F0), {(2, F0, "sha256")}),
    "base flipped": (in_base(flipped(F0)), {(0, F0, "sha256")}),
    "base quantizer lost": (
        in_base(removed(QUANTIZER_NAME)),
        {(None, QUANTIZER_NAME, "missing")},
    ),
}


@pytest.mark.parametrize("name", ADDED)
def test_damage_to_an_index_that_adds_to_another_is_found_where_it_is(added, name):
    damage, wanted = ADDED[name]
    damage(added)
    files = {0: R0, 1: R1}
    wanted = {(shard, file or files[shard], kind) for shard, file, kind in wanted}
    assert located(verify(added)) == wanted


def test_a_row_that_the_table_has_twice_and_rows_of_now_are_told(whole):
    twice = np.append(whole.living, whole.living[3])
    (wrong,) = (f for f in verify(whole, living=twice) if f.kind != COUNTED)
    assert (wrong.file, wrong.kind, wrong.vector_ids) == ("vectors", "twice", (FIRST + 3,))


def test_without_the_version_nothing_is_said_of_missing_rows(whole):
    """Of the newest version rows may be fresh or gone; what stands in the index twice is wrong all the same."""
    built(1, with_row_of_the_other)(whole)
    spec = VerifySpec(str(whole.root))
    placed = place_rows(iter([pa.record_batch([pa.array([0, 1])], names=["id"])]), spec=spec)
    now = np.append(whole.living[10:], [99_999])
    account = AccountSpec(SHARDS, at_version=False)
    found = read(account_batches(accounted(placed, whole, living=now), spec=account))
    figures = {f.file: f.rows for f in found if f.kind == COUNTED}
    assert (figures["fresh"], figures["gone since"]) == (1, 10)
    assert located(found) == WHOLE["id in two shards"][1]


def test_what_is_found_names_rows(whole):
    built(1, lambda ids, x: (ids[4:], x[4:]))(whole)
    ids = np.sort([i for i in IDS if hash_of(i) % SHARDS == 1])
    (wrong,) = (f for f in verify(whole) if f.kind != COUNTED)
    assert (wrong.rows, wrong.vector_ids) == (4, tuple(ids[:3]))
    assert str(wrong).startswith(f"shard 1, {R1}: missing row: expected every living row")
    assert str(wrong).endswith(f"4 row(s), such as vector_id {ids[0]}")


def edited(d):
    text = d.path("manifest.json").read_text().replace('"nprobe": ', '"nprobe": 1')
    d.path("manifest.json").write_text(text)


def no_document(d):
    d.path("manifest.json").write_bytes(b"{")


def of_another(d):
    build(d.root.parent / "other", XB[:900], small_ivf_plan(900, DIM, shards=SHARDS))
    shutil.copy(d.root.parent / "other" / "manifest.json", d.path("manifest.json"))


def rewritten(d):
    """As a hand does that knows how: with the checksum of itself."""
    plan = replace(d.manifest.spec.plan, nprobe=1)
    replace(d.manifest, spec=replace(d.manifest.spec, plan=plan)).write(str(d.root))


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (removed("manifest.json"), "missing"),
        (edited, "sha256"),
        (rewritten, "sha256"),
        (of_another, "other index"),
        (no_document, "sha256"),
    ],
    ids=["missing", "edited", "rewritten", "of another", "no document"],
)
def test_other_manifests_than_the_committed_one_are_found(whole, damage, kind):
    root, committed = str(whole.root), whole.manifest.sha256
    found, wrong = find_manifest(root, index_id="base", sha256=committed)
    assert found == whole.manifest and not wrong
    damage(whole)
    found, (wrong,) = find_manifest(root, index_id="base", sha256=committed)
    assert found is None and (wrong.file, wrong.kind) == ("manifest.json", kind)


def test_rows_of_tables_that_say_other_things_are_found(added):
    spec, files = added.manifest.spec, [(0, "./a", "0" * 64, 1, 2), (-1, "./b", "1" * 64, 8, 1)]
    row = {**asdict(spec), **asdict(spec.plan), "rows": 1487, "shards": 3}
    assert not list(compare_rows(added.manifest, row, own=files, listed=files))
    wrong = list(compare_rows(added.manifest, row | {"rows": 9}, own=files, listed=files[1:]))
    assert located(wrong) == {(None, "indexes", "row"), (0, "index_shards", "row")}
    (wrong,) = compare_rows(added.manifest, row, own=files, listed=[*files, files[0]])
    assert wrong.kind == "twice"
