"""A table of pairs as training data: which pairs a step takes, and how their rows are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from udfs.errors import LakeError, SettingsError
from udfs.files.image_files import read_image
from udfs.gme.prepare import Prepared, Row, RowPreparer
from udfs.storage import locate
from udfs.strings import arrow_strings, python_values, require_utf8
from udfs.training.pictures import random_cut
from udfs.training.plan import Ints, Plan, Term, join_ids, step_rng
from udfs.training.spec import Direction, PairsSpec

_SIDE = (("text", pa.string()), ("image", pa.binary()), ("image_uri", pa.string()))
# A picture is given as bytes or as a path/URI. `positive_id`: pairs with the same one share their right answers; so do
# pairs with the same positive, whatever their ids. A negative that is right for other pairs has their positive_id as
# `id`: it is no negative of theirs in a step. `direction` follows from what is not null where it is not given.
PAIRS_SCHEMA = pa.schema(
    [
        ("direction", pa.string()),
        ("instruction", pa.string()),
        *((f"query_{name}", kind) for name, kind in _SIDE),
        *((f"positive_{name}", kind) for name, kind in _SIDE),
        ("positive_id", pa.string()),
        ("negatives", pa.list_(pa.struct([*_SIDE, ("id", pa.string())]))),
    ]
)

# What a table of pairs may say of a pair beside: kept by mine-negatives, not looked at by a training.
NOTES = ("domain", "lineage")


class PairItem(NamedTuple):
    """One row of a pair: `side` is "query", "positive", or the number of a hard negative.

    `cut` seeds the random cut of its picture.
    """

    pair: int
    side: str | int
    cut: int


def write_pairs(path: str | Path, batches: Iterable[pa.RecordBatch]) -> Path:
    """Write a pairs table as one Arrow file that processes map into memory; columns not given become null.

    Raises LakeError for an unknown column, a row without query or positive, or no row at all.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    rows = 0
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, PAIRS_SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(_normalise(batch, first=rows))
            rows += batch.num_rows
    if not rows:
        raise LakeError("the pairs table has no rows: nothing to train on")
    return partial.replace(file)


class TablePairs:
    """Steps over a pairs file; each is drawn from (seed, step) without replacement within the step."""

    def __init__(
        self,
        spec: PairsSpec,
        preparer: RowPreparer,
        *,
        batch: int,
        seed: int,
        instructions: bool = True,
        share: float = 1.0,
        directions: tuple[Direction, ...] = (),
    ) -> None:
        self._spec = spec
        self._preparer = preparer
        self._batch = batch
        self._seed = seed
        self._instructions = instructions
        with pa.memory_map(spec.path) as source:
            self._table = pa.ipc.open_file(source).read_all()
        self._rows = _rows_by_direction(self._table, seed=seed, share=share)
        sizes = {name: len(rows) for name, rows in self._rows.items()}
        self._weights = _weights(spec, sizes, directions)

    def plan(self, step: int) -> Plan:
        """`batch` pairs by the directions' weights: queries, then positives, then hard negatives."""
        rng = step_rng(self._seed, step, salt="pairs")
        chosen: list[tuple[Direction, npt.NDArray[np.int64]]] = []
        for direction, count in self._counts(rng).items():
            rows = self._rows[direction]
            picked = rng.choice(rows, size=min(count, len(rows)), replace=False)
            chosen.append((direction, picked))
        pairs = [int(pair) for _, picked in chosen for pair in picked]
        sides: list[tuple[int, str | int]] = [
            (pair, side) for side in ("query", "positive") for pair in pairs
        ]
        sides += [(pair, number) for pair in pairs for number in self._negatives(pair, rng)]
        cuts = rng.integers(2**31, size=len(sides)).tolist()
        items = [PairItem(pair, side, cut) for (pair, side), cut in zip(sides, cuts, strict=True)]
        contents = np.array([_digest(self._content(item)) for item in items], dtype=np.int64)
        names = [self._name(item) for item in items]
        ids = [c if n is None else _digest((n,)) for n, c in zip(names, contents, strict=True)]
        candidates = np.arange(len(pairs), len(items))
        terms, start = [], 0
        for direction, picked in chosen:
            queries = np.arange(start, start + len(picked))
            share = len(picked) / len(pairs)
            terms.append(Term(direction, queries, queries + len(pairs), candidates, share))
            start += len(picked)
        return Plan(items, join_ids(np.array(ids, dtype=np.int64), contents), terms)

    def prepare(self, item: PairItem) -> Prepared:
        """Model input of an item; raises RowRejected where its picture cannot be read."""
        text, image, uri = self._content(item)
        if image is None and uri is not None:
            where = locate(self._spec.image_base, uri)
            image = read_image(where, spec=self._spec.reading)
        is_query = item.side == "query"
        instruction = self._value("instruction", item.pair) if is_query else None
        told = instruction if self._instructions else None
        for what, value in (("text", text), ("instruction", told)):
            require_utf8(value, what=f"{item.side}'s {what}")
        augment = partial(random_cut, least=self._spec.crop, seed=item.cut)
        return self._preparer.prepare(
            Row(text, image, told, is_query), augment=augment if self._spec.crop < 1 else None
        )

    def _counts(self, rng: np.random.Generator) -> dict[Direction, int]:
        names, weights = list(self._weights), np.array(list(self._weights.values()))
        if self._spec.homogeneous:
            return {names[rng.choice(len(names), p=weights)]: self._batch}
        counts = rng.multinomial(self._batch, weights)
        return {name: int(count) for name, count in zip(names, counts, strict=True) if count}

    def _negatives(self, pair: int, rng: np.random.Generator) -> list[int]:
        """Numbers of the hard negatives that a step takes of a pair."""
        given = len(self._value("negatives", pair) or [])
        count = min(given, self._spec.negatives)
        return [int(number) for number in rng.choice(given, size=count, replace=False)]

    def _content(self, item: PairItem) -> tuple[str | None, bytes | None, str | None]:
        if isinstance(item.side, int):
            side = self._value("negatives", item.pair)[item.side]
            return side["text"], side["image"], side["image_uri"]
        text, image, uri = (self._value(f"{item.side}_{name}", item.pair) for name, _ in _SIDE)
        return text, image, uri

    def _value(self, column: str, pair: int) -> Any:
        return python_values(self._table[column].slice(pair, 1))[0]

    def _name(self, item: PairItem) -> str | None:
        """The id that the table gives what a positive or a negative shows."""
        name: str | None = None
        if item.side == "positive":
            name = self._value("positive_id", item.pair)
        elif isinstance(item.side, int):
            name = self._value("negatives", item.pair)[item.side]["id"]
        return name or None


def _digest(parts: tuple[str | bytes | None, ...]) -> int:
    """A number that names some values and their places."""
    short = [hashlib.blake2b(p).digest() if isinstance(p, bytes) else p for p in parts]
    whole = hashlib.blake2b(repr(short).encode(), digest_size=8)
    return int.from_bytes(whole.digest(), "big", signed=True)


def _normalise(batch: pa.RecordBatch, *, first: int) -> pa.RecordBatch:
    unknown = sorted(set(batch.schema.names) - {*PAIRS_SCHEMA.names, *NOTES})
    if unknown:
        raise LakeError(
            f"the pairs table has the columns {unknown}; known are {PAIRS_SCHEMA.names}"
        )
    columns = {
        field.name: batch[field.name].cast(field.type)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in PAIRS_SCHEMA
    }
    found = [_modalities(columns, side) for side in ("query", "positive")]
    for row, (query, positive) in enumerate(zip(*found, strict=True)):
        if not query or not positive:
            side = "positive" if query else "query"
            raise LakeError(f"row {first + row} of the pairs table has no {side} text or image")
    given = python_values(columns["direction"])
    names = [
        name or f"{query}2{positive}" for name, query, positive in zip(given, *found, strict=True)
    ]
    columns["direction"] = arrow_strings(names)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=PAIRS_SCHEMA)


def _modalities(columns: dict[str, pa.Array], side: str) -> list[str]:
    """ "i", "t", "it" or "" for each row."""
    has = [columns[f"{side}_{name}"].is_valid().to_pylist() for name, _ in _SIDE]
    return [
        ("i" if image or uri else "") + ("t" if text else "")
        for text, image, uri in zip(*has, strict=True)
    ]


def _rows_by_direction(table: pa.Table, *, seed: int, share: float) -> dict[Direction, Ints]:
    """Row numbers of each direction; with `share` < 1 a part of them that grows with it."""
    directions = np.array(python_values(table["direction"]))
    rows = {}
    for name in sorted(set(directions)):
        order = np.random.default_rng(seed).permutation(np.flatnonzero(directions == name))
        rows[str(name)] = order[: max(1, round(share * len(order)))]
    return rows


def _weights(
    spec: PairsSpec, sizes: dict[Direction, int], directions: tuple[Direction, ...]
) -> dict[Direction, float]:
    wanted = dict(spec.weights) or {name: float(size) for name, size in sizes.items()}
    unknown = sorted((set(wanted) | set(directions)) - set(sizes))
    if unknown:
        raise SettingsError(
            f"weights or directions name {unknown}; the pairs table has the directions {sizes}"
        )
    if directions:
        wanted = {name: wanted.get(name, 0.0) for name in directions}
    total = sum(wanted.values())
    if total <= 0:
        raise SettingsError(
            f"the directions {sorted(wanted)} have no weight: change train.weights or train.directions"
        )
    return {name: weight / total for name, weight in wanted.items()}
