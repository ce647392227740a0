"""Shards hold what was added, in order, in open formats; bad rows are refused; nothing is left behind."""

import hashlib

import faiss
import numpy as np
import pyarrow as pa
import pytest

from tests.unit.search.indexes import clustered, kept_halves, names_of, small_ivf_plan
from udfs.errors import IndexDataError
from udfs.index.files import file_sha256
from udfs.index.resume import find_shard
from udfs.index.shard import ShardWriter
from udfs.index.train import train_quantizer

XB = clustered(1300, 48)
IDS = np.arange(len(XB), dtype=np.int64) * 7 + 2**40


@pytest.fixture(scope="module")
def quantizer():
    return train_quantizer(XB, small_ivf_plan(len(XB), 48), threads=1)


@pytest.fixture
def writer(quantizer, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    with ShardWriter(
        quantizer, shard=3, root=str(tmp_path / "root"), work_dir=str(work)
    ) as shard_writer:
        yield shard_writer
    assert list(work.iterdir()) == []


def test_files_hold_the_rows_in_order_of_arrival(writer, tmp_path):
    root = tmp_path / "root"
    writer.add(IDS[:700], names_of(IDS[:700]), XB[:700])
    writer.add(IDS[:0], [], XB[:0])
    writer.add(IDS[700:], pa.array(names_of(IDS[700:])), XB[700:])
    assert not root.exists()  # nothing appears before it is whole
    record = writer.finish()
    assert (record.shard, record.rows) == (3, 1300)
    names = ["shard-00003.faiss", "shard-00003.rows.arrow", "shard-00003.f16"]
    assert [file.name for file in record.files] == names
    assert sorted(path.name for path in root.iterdir()) == sorted([*names, "shard-00003.json"])
    for file in record.files:
        path = root / file.name
        assert (file_sha256(path), path.stat().st_size) == (file.sha256, file.bytes)
    refine = np.memmap(root / names[2], dtype="<f2", mode="r", shape=XB.shape)
    np.testing.assert_array_equal(refine, kept_halves(XB))
    rows = pa.ipc.open_file(pa.memory_map(str(root / names[1]))).read_all()
    assert rows["vector_id"].to_pylist() == IDS.tolist()
    assert rows["id"].to_pylist() == names_of(IDS)
    index = faiss.read_index(str(root / names[0]))
    assert index.ntotal == 1300


@pytest.mark.parametrize(
    ("row", "value", "words"),
    [(5, np.nan, "row 5 has NaN"), (6, np.inf, "row 6 has NaN"), (7, 3.0, "row 7 has norm 3")],
)
def test_bad_vectors_are_refused(writer, row, value, words):
    xb = XB.copy()
    xb[row, 0] = value
    with pytest.raises(IndexDataError, match=f"shard-00003.*{words}"):
        writer.add(IDS, names_of(IDS), xb)


@pytest.mark.parametrize("second", [slice(0, 1), slice(5, 9)])
def test_a_vector_id_that_comes_twice_is_refused(writer, tmp_path, second):
    writer.add(IDS[:6], names_of(IDS[:6]), XB[:6])
    writer.add(IDS[second], names_of(IDS[second]), XB[second])
    with pytest.raises(IndexDataError, match=f"such as {IDS[second][0]}"):
        writer.finish()
    assert not (tmp_path / "root").exists()


def test_other_bad_rows_are_refused(writer):
    with pytest.raises(IndexDataError, match="vector_id -1 is negative"):
        writer.add(np.array([3, -1]), ["a", "b"], XB[:2])
    with pytest.raises(IndexDataError, match="2 vector_ids, 1 ids and 2 vectors"):
        writer.add(IDS[:2], ["a"], XB[:2])
    with pytest.raises(IndexDataError, match="1 row ids are null"):
        writer.add(IDS[:2], ["a", None], XB[:2])
    with pytest.raises(IndexDataError, match="40 dimensions but the index has 48"):
        writer.add(IDS[:2], ["a", "b"], XB[:2, :40])


def test_a_failed_task_leaves_nothing(quantizer, tmp_path):
    root, work = tmp_path / "root", tmp_path / "work"
    work.mkdir()
    with (
        pytest.raises(RuntimeError, match="killed"),
        ShardWriter(quantizer, shard=0, root=str(root), work_dir=str(work)) as writer,
    ):
        writer.add(IDS, names_of(IDS), XB)
        raise RuntimeError("killed")
    assert not root.exists() and list(work.iterdir()) == []


def test_a_finished_shard_is_found_again_only_while_it_is_whole(writer, quantizer, tmp_path):
    root = tmp_path / "root"
    sha256 = hashlib.sha256(quantizer).hexdigest()
    assert find_shard(str(root), 3, quantizer_sha256=sha256) is None
    writer.add(IDS, names_of(IDS), XB)
    record = writer.finish()
    assert find_shard(str(root), 3, quantizer_sha256=sha256) == record
    assert find_shard(str(root), 3, quantizer_sha256="0" * 64) is None  # retrained since
    assert find_shard(str(root), 2, quantizer_sha256=sha256) is None
    for file in record.files:
        data = (root / file.name).read_bytes()
        (root / file.name).write_bytes(data[:-1])
        assert find_shard(str(root), 3, quantizer_sha256=sha256) is None
        (root / file.name).unlink()
        assert find_shard(str(root), 3, quantizer_sha256=sha256) is None
        (root / file.name).write_bytes(data)
    assert find_shard(str(root), 3, quantizer_sha256=sha256) == record
    (root / "shard-00003.json").write_text("{")
    assert find_shard(str(root), 3, quantizer_sha256=sha256) is None
