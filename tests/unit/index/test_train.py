"""Training is repeatable, leaves an empty index, and refuses samples that give a poor one."""

import contextlib

import faiss
import numpy as np
import pytest

from tests.unit.search.indexes import build, clustered, small_ivf_plan
from udfs.errors import IndexDataError, SettingsError
from udfs.index.drift import DriftSpec, drift_batches
from udfs.index.manifest import Manifest
from udfs.index.plan import default_plan
from udfs.index.probe import probe
from udfs.index.train import train_quantizer
from udfs.search.index import Index
from udfs.specs import SearchOptions

XT = clustered(2000, 48)


def test_same_sample_and_threads_give_the_same_bytes():
    plan = small_ivf_plan(len(XT), 48)
    first = train_quantizer(XT, plan, threads=1)
    assert train_quantizer(XT, plan, threads=1) == first
    index = faiss.deserialize_index(np.frombuffer(first, dtype=np.uint8))
    assert (index.ntotal, index.d, index.is_trained) == (0, 48, True)
    other = train_quantizer(XT[::-1], plan, threads=1)
    assert other != first


def test_threads_of_the_process_are_left_as_they_were(tmp_path):
    """A notebook's own faiss goes on with what it had: after training, building, adding, searching, and errors."""
    plan = default_plan(len(XT), 48, factory="IVF{nlist},SQ8")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before + 3)
    try:
        for step in (
            lambda: train_quantizer(XT, plan, threads=before + 1),
            lambda: build(tmp_path, XT, plan),
            lambda: Index.open(tmp_path).search(XT[:3], SearchOptions(2)),
            lambda: Index.open(tmp_path, threads=2).search(XT[:3, :7], SearchOptions(2)),
            lambda: probe(plan, 48),
            lambda: list(drift_batches(iter([]), spec=drift_spec(tmp_path))),
        ):
            with contextlib.suppress(IndexDataError):
                step()
            assert faiss.omp_get_max_threads() == before + 3
    finally:
        faiss.omp_set_num_threads(before)


def drift_spec(root):
    return DriftSpec(str(root), Manifest.read(str(root)).quantizer, 48)


def test_flat_needs_no_rows():
    plan = default_plan(10, 48)
    index = faiss.deserialize_index(
        np.frombuffer(train_quantizer(XT[:0], plan, threads=1), dtype=np.uint8)
    )
    assert isinstance(index, faiss.IndexFlatIP)


def test_too_few_rows_are_refused_with_both_numbers():
    plan = small_ivf_plan(len(XT), 48)
    with pytest.raises(SettingsError, match=r"needs 1248 rows.*there are 1247"):
        train_quantizer(XT[:1247], plan, threads=1)


@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN"), (np.inf, "NaN"), (9.0, "norm 9")])
def test_bad_rows_are_refused_by_number(value, words):
    xt = XT.copy()
    xt[17, 3] = value
    with pytest.raises(IndexDataError, match=f"row 17 has {words}"):
        train_quantizer(xt, small_ivf_plan(len(xt), 48), threads=1)
