"""The vectors that GME's own code returned, to 1e-5: alone, in one mixed batch, and shuffled."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.shared import shared
from udfs.gme import Row

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden():
    table = pq.read_table(shared("gme_golden", "rows.parquet")).to_pylist()
    rows = [Row(r["text"], r["image"], r["instruction"], r["is_query"]) for r in table]
    vectors = np.array([r["embedding"] for r in table], dtype=np.float32)
    assert vectors.shape == (49, 64)
    return rows, vectors


def test_one_mixed_batch(reference, golden):
    rows, expected = golden
    encoded = reference.encode(rows)
    assert encoded.errors == [None] * len(rows)
    assert encoded.vectors.dtype == np.float32
    assert np.abs(encoded.vectors - expected).max() < TOLERANCE


def test_each_row_alone(reference, golden):
    rows, expected = golden
    alone = np.concatenate([reference.encode([row]).vectors for row in rows])
    assert np.abs(alone - expected).max() < TOLERANCE


def test_shuffled_rows_come_back_in_order(reference, golden):
    rows, expected = golden
    order = np.random.default_rng(7).permutation(len(rows))
    encoded = reference.encode([rows[i] for i in order])
    assert np.abs(encoded.vectors - expected[order]).max() < TOLERANCE


def test_without_the_instruction_rule_it_would_fail(reference, golden):
    """The golden rows can tell: a query's vector without its instruction is another one."""
    rows, expected = golden
    queries = [i for i, row in enumerate(rows) if row.is_query][:3]
    bare = reference.encode([Row(rows[i].text, rows[i].image) for i in queries])
    assert np.abs(bare.vectors - expected[queries]).max(axis=1).min() > 1e-3
