"""Catalogue rows: deterministic by number, with the promised share of missing and broken pictures."""

import io
import pickle
from collections import Counter
from functools import partial

import pyarrow as pa
import pytest
from PIL import Image

from udfs.drawing import (
    CATALOGUE_OUTPUT,
    COMBINATIONS,
    CatalogueSpec,
    catalogue_row,
    catalogue_rows,
    draw_batches,
    held_out,
    split_of,
)
from udfs.drawing.broken import FAULTS, break_picture
from udfs.drawing.catalogue import product

SMALL = CatalogueSpec(seed=7, size=32)


def numbers(*values):
    return pa.RecordBatch.from_pydict({"number": pa.array(values, pa.int64())})


def test_rows_are_the_same_in_any_order_and_any_partition():
    whole = pa.Table.from_batches(draw_batches(iter([numbers(*range(12))]), spec=SMALL)).to_pylist()
    parts = [
        pa.Table.from_batches(draw_batches(iter([numbers(*part)]), spec=SMALL)).to_pylist()
        for part in ((11, 3, 7), (0, 1))
    ]
    assert [row for part in parts for row in part] == [whole[i] for i in (11, 3, 7, 0, 1)]


def test_batches_have_the_declared_schema_and_are_cut_to_size():
    out = list(draw_batches(iter([numbers(*range(300)), numbers()]), spec=CatalogueSpec(size=8)))
    assert [b.num_rows for b in out] == [256, 44]
    assert all(b.schema == CATALOGUE_OUTPUT.arrow for b in out)


def test_catalogue_rows_begin_with_the_same_rows_whatever_their_number():
    assert list(catalogue_rows(2, seed=1)) == list(catalogue_rows(5, seed=1))[:2]
    first, other = next(catalogue_rows(1, seed=1)), next(catalogue_rows(1, seed=2))
    assert first["id"] == other["id"] and first["title"] != other["title"]


def test_shares_of_missing_and_broken_rows():
    products = [product(n, spec=CatalogueSpec()) for n in range(8000)]
    pictures = Counter(p.fault for p in products)
    assert sum(not p.has_picture for p in products) == pytest.approx(160, abs=45)
    assert sum(pictures[f] for f in FAULTS) == pytest.approx(80, abs=35)
    assert all(pictures[f] >= 5 for f in FAULTS)
    assert sum(p.description is None for p in products) == pytest.approx(400, abs=80)


def test_the_demo_of_two_thousand_rows_has_every_kind_of_fault_and_combination():
    products = [product(n, spec=CatalogueSpec()) for n in range(2000)]
    assert {p.fault for p in products} == {None, *FAULTS}
    assert not all(p.has_picture for p in products)
    assert {p.combination for p in products} == set(COMBINATIONS)


def test_a_row_without_picture_still_has_a_title():
    spec = CatalogueSpec(no_picture=1.0, no_description=1.0)
    row = catalogue_row(3, spec=spec)
    assert row["image"] is None and row["description"] is None and row["title"]


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_pictures_cannot_be_decoded(fault):
    out = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(out, "JPEG")
    data = break_picture(out.getvalue(), fault=fault)
    assert len(data) < len(out.getvalue())
    with pytest.raises((OSError, Image.DecompressionBombError)):
        Image.open(io.BytesIO(data)).load()


def test_held_out_combinations_are_fixed_and_every_attribute_is_trained_on():
    assert len(held_out()) == 180 and held_out() == held_out(seed=0) != held_out(seed=1)
    trained = set(COMBINATIONS) - held_out()
    for axis in range(3):
        assert {c[axis] for c in trained} == {c[axis] for c in COMBINATIONS}
    # Pairs too: what is new about a held-out product is the combination of all three.
    assert {c[:2] for c in trained} == {c[:2] for c in COMBINATIONS}


def test_the_split_does_not_depend_on_the_catalogues_seed():
    for seed in (0, 5):
        for n in range(40):
            facts = product(n, spec=CatalogueSpec(seed=seed))
            assert facts.split == split_of(facts.combination)


def test_what_spark_receives_is_small_and_by_reference():
    sent = pickle.dumps(partial(draw_batches, spec=SMALL))
    assert len(sent) < 500 and b"udfs.drawing.catalogue" in sent
