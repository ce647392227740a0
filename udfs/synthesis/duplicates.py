"""Near-duplicate queries: minhash over words, in bands, so that only queries that share a band are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.strings import python_values
from udfs.synthesis.rules import words

BANDS_INPUT = Columns("key string, text string")
BANDS = Columns("key string, band string, words array<string>")
_PRIME = (1 << 61) - 1


@dataclass(frozen=True)
class DuplicatesSpec:
    """`bands` of `rows` hashes each: queries with Jaccard's s share a band with probability 1 - (1 - s^rows)^bands."""

    bands: int = 16
    rows: int = 4
    seed: int = 0


@gives(BANDS)
def band_batches(
    batches: Iterator[pa.RecordBatch], *, spec: DuplicatesSpec
) -> Iterator[pa.RecordBatch]:
    """`bands` rows for each BANDS_INPUT row; texts with the same words in any order share all of them."""
    for batch in batches:
        keys: list[str] = []
        bands: list[str] = []
        sets: list[list[str]] = []
        texts = python_values(batch.column("text"))
        for key, text in zip(python_values(batch.column("key")), texts, strict=True):
            found = sorted(set(words(text or "")))
            for band in text_bands(found, spec):
                keys.append(key)
                bands.append(band)
                sets.append(found)
        yield BANDS.batch(keys, bands, sets)


def text_bands(found: list[str], spec: DuplicatesSpec) -> list[str]:
    """The bands of a set of words. None is none's neighbour: no words, no bands."""
    if not found:
        return []
    digests = [hashlib.blake2b(w.encode("utf-8", "replace"), digest_size=7).digest() for w in found]
    numbers = [int.from_bytes(digest, "big") for digest in digests]
    least = [
        min((a * number + b) % _PRIME for number in numbers) for a, b in _functions(spec).tolist()
    ]
    return [
        f"{band}/{hash_of(least[band * spec.rows : (band + 1) * spec.rows])}"
        for band in range(spec.bands)
    ]


def hash_of(numbers: list[int]) -> str:
    """A short name of some numbers."""
    return hashlib.blake2b(repr(numbers).encode(), digest_size=8).hexdigest()


def _functions(spec: DuplicatesSpec) -> npt.NDArray[np.int64]:
    """(bands · rows, 2) factors and summands."""
    rng = np.random.default_rng(spec.seed)
    return rng.integers(1, _PRIME, size=(spec.bands * spec.rows, 2), dtype=np.int64)
