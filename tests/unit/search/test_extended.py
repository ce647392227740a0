"""An index that adds to another answers as exact search over the rows of both that are not gone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.search.indexes import (
    FIRST_VECTOR_ID,
    build,
    clustered,
    extend,
    flip,
    names_of,
    ranked_halves,
)
from udfs.errors import IndexDataError
from udfs.index.drift import quantizer_error
from udfs.index.manifest import ADDED_FORMAT, GONE_NAME
from udfs.index.plan import default_plan
from udfs.index.vectors import is_in
from udfs.search.batches import indexed_ids
from udfs.search.exact import exact_topk
from udfs.search.index import Index
from udfs.specs import SearchOptions

ROWS, NEW, DIM, SHARDS = 3000, 400, 16, 2
XB, XNEW = clustered(ROWS, DIM, clusters=6), clustered(NEW, DIM, seed=2, clusters=6)
XQ = clustered(12, DIM, seed=1, clusters=6)
IDS = np.arange(ROWS + NEW, dtype=np.int64) + FIRST_VECTOR_ID
X = np.vstack([XB, XNEW])
FACTORIES = {
    "fast-scan codes": "OPQ8_16,IVF{nlist},PQ8x4fs",
    "scalar codes": "IVF{nlist},SQ8",
    "codes that are mapped": "IVF{nlist},PQ4x4np",
    "vectors in the lists": "IVF{nlist},Flat",
}


@pytest.fixture(scope="module", params=list(FACTORIES))
def extended(request, tmp_path_factory):
    """The opened index, and which rows are alive."""
    lake = tmp_path_factory.mktemp("indexes")
    plan = default_plan(
        ROWS, DIM, factory=FACTORIES[request.param], nlist=16, shards=SHARDS, seed=1
    )
    base = build(lake / "base", XB, plan)
    alive = np.random.default_rng(3).random(ROWS + NEW) > 0.1
    alive[ROWS:] = True
    extend(base, lake / "added", IDS[~alive], XNEW, FIRST_VECTOR_ID + ROWS)
    return Index.open(lake / "added"), alive


def widest(index, xq, k):
    return index.search(xq, SearchOptions(k, nprobe=16, k_factor=ROWS + NEW))


def test_equals_exact_search_over_the_rows_that_are_left(extended):
    index, alive = extended
    stored = ranked_halves(X) if index.manifest.spec.plan.refine == "fp16" else X
    D, I = exact_topk(XQ, [(IDS[alive], stored[alive])], 20)
    found = widest(index, XQ, 20)
    assert index.rows == index.manifest.rows == alive.sum()
    np.testing.assert_allclose(found.D, D, atol=1e-5)
    assert (found.I == I).mean() > 0.99  # rows equally near to the last bit may change places
    assert found.ids.ravel().tolist() == names_of(found.I.ravel())


def test_every_row_left_is_found_and_none_that_is_gone(extended):
    index, alive = extended
    found = widest(index, XQ[:1], ROWS + NEW)
    assert sorted(found.I[0]) == IDS[alive].tolist()
    batch = pa.record_batch([pa.array(range(SHARDS + 1))], ["id"])
    root = index.manifest.spec.root
    listed = [b.column(0).to_numpy() for b in indexed_ids(iter([batch]), root=root)]
    assert sorted(np.concatenate(listed)) == IDS[alive].tolist()


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_later_changes_and_filters_add_to_what_is_gone(extended, data):
    index, alive = extended
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    gone = rng.random(len(IDS)) < data.draw(st.sampled_from([0.0, 0.05, 0.9]))
    allowed = rng.random(len(IDS)) < data.draw(st.sampled_from([0.02, 0.6, 1.0]))
    if index.manifest.spec.plan.refine == "none":
        pytest.skip("no vectors are kept to look rows up in")
    live = index.restrict(gone=IDS[gone], allowed=IDS[allowed])
    left = alive & ~gone & allowed
    D, _ = exact_topk(XQ, [(IDS[left], ranked_halves(X)[left])], max(min(9, left.sum()), 1))
    found = widest(live, XQ, 9)
    assert live.rows == left.sum() and is_in(found.I.ravel(), IDS[left]).all()
    np.testing.assert_allclose(found.D, D[:, : found.D.shape[1]], atol=1e-5)


def test_parts_of_the_shards_hold_all_rows(extended):
    index, alive = extended
    root = index.manifest.spec.root
    parts = [Index.open(root, shards=[n]) for n in range(SHARDS + 1)]
    assert sum(part.rows for part in parts) == alive.sum()
    found = [widest(part, XQ, 5) for part in parts]
    best = np.sort(np.hstack([f.D for f in found]), axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(best, widest(index, XQ, 5).D, atol=1e-6)


@pytest.fixture
def small(tmp_path):
    base = build(
        tmp_path / "base", XB, default_plan(ROWS, DIM, nlist=8, shards=SHARDS), model_id="model-a"
    )
    return base, extend(base, tmp_path / "added", IDS[:50], XNEW, FIRST_VECTOR_ID + ROWS)


def test_files_of_base_and_gone_rows_are_checked_before_they_are_read(small):
    base, added = small
    paths = [Path(added.spec.root) / GONE_NAME]
    paths += [Path(base.spec.root) / file.name for file in (base.quantizer, *base.shards[1].files)]
    for path in paths:
        flip(path, path.stat().st_size // 2)
        with pytest.raises(IndexDataError, match=f"{path.name} has sha-256"):
            Index.open(added.spec.root)
        flip(path, path.stat().st_size // 2)
    assert Index.open(added.spec.root).rows == ROWS + NEW - 50


def test_a_lake_may_be_moved_and_a_base_that_is_gone_is_named(small, tmp_path):
    _, added = small
    (tmp_path / "moved").mkdir()
    for name in ("base", "added"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    root = tmp_path / "moved" / "added"
    assert Index.open(root).rows == added.rows
    (tmp_path / "moved" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(IndexDataError, match=r"moved/base/quantizer.faiss is named by .* missing"):
        Index.open(root)


def test_shards_of_another_quantizer_or_names_with_folders_are_refused(small):
    _, added = small
    assert json.loads(added.to_json())["format"] == ADDED_FORMAT
    foreign = replace(added.base.shards[0], quantizer_sha256="0" * 64)
    with pytest.raises(IndexDataError, match=r"shard 0 .* was built with quantizer 0000"):
        replace(added, base=replace(added.base, shards=(foreign, added.base.shards[1])))
    with pytest.raises(IndexDataError, match="not a plain file name"):
        replace(added, base=replace(added.base, index_id="../base"))


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=list(FACTORIES))
def test_error_is_the_squared_distance_to_what_is_kept(tmp_path, factory):
    plan = default_plan(ROWS, DIM, factory=factory, nlist=16, shards=SHARDS)
    base = build(tmp_path, XB, plan)
    data = (tmp_path / base.quantizer.name).read_bytes()
    error, new = quantizer_error(data, XB), quantizer_error(data, XNEW)
    assert 0 < error < 1 and new == pytest.approx(error, rel=0.15)
    assert quantizer_error(data, clustered(NEW, DIM, seed=9, spread=9)) > 1.2 * error
    if "PQ4x4np" in factory:  # the one that faiss itself can decode
        import faiss

        index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        kept = index.sa_decode(index.sa_encode(XB))
        assert ((kept - XB) ** 2).sum(axis=1).mean() == pytest.approx(error, rel=0.03)


def test_indexes_without_lists_have_no_error(tmp_path):
    base = build(tmp_path, XB, default_plan(ROWS, DIM, factory="Flat"))
    assert quantizer_error((tmp_path / base.quantizer.name).read_bytes(), XB) is None
