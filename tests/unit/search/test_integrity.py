"""Damaged, truncated, foreign and missing files are found before faiss sees them; remote indexes are cached."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import fsspec
import numpy as np
import pytest

from tests.unit.search.indexes import build, clustered, flip, small_ivf_plan
from udfs.errors import IndexDataError
from udfs.index import files
from udfs.index.manifest import Manifest
from udfs.index.points import OperatingPoint
from udfs.search import opened
from udfs.search.index import Index
from udfs.specs import SearchOptions

XB = clustered(1400, 48)
XQ = clustered(5, 48, seed=1)
FILES = [
    "manifest.json",
    "quantizer.faiss",
    "shard-00000.faiss",
    "shard-00001.f16",
    "shard-00001.rows.arrow",
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("pristine")
    build(root, XB, small_ivf_plan(len(XB), 48, shards=2))
    return root


@pytest.fixture
def root(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "index")


@pytest.fixture
def opened_files(monkeypatch):
    """Names faiss was asked to read."""
    names = []
    read = opened.faiss.read_index
    monkeypatch.setattr(
        opened.faiss, "read_index", lambda path, *flags: names.append(path) or read(path, *flags)
    )
    return names


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_found(root, name, opened_files):
    size = (root / name).stat().st_size
    for position in np.linspace(0, size - 1, 20).astype(int):
        flip(root / name, position)
        with pytest.raises(IndexDataError, match=name):
            Index.open(root)
        assert not any(path.endswith(name) for path in opened_files)
        flip(root / name, position)
    Index.open(root)  # whole again


@pytest.mark.parametrize("name", FILES)
def test_truncated_longer_and_missing_files_are_found(root, name):
    data = (root / name).read_bytes()
    for damaged in (b"", data[: len(data) // 2], data[:-1], data + b"\0"):
        (root / name).write_bytes(damaged)
        with pytest.raises(IndexDataError, match=name):
            Index.open(root)
    (root / name).unlink()
    with pytest.raises(IndexDataError, match=f"{name}.*build"):
        Index.open(root)


def test_a_file_of_another_index_is_found(root, tmp_path):
    build(tmp_path / "other", XB[::-1].copy(), small_ivf_plan(len(XB), 48, shards=2), name="foe")
    for name in FILES[1:]:
        shutil.copy(root / name, tmp_path / "kept")
        shutil.copy(tmp_path / "other" / name, root / name)
        with pytest.raises(IndexDataError, match=name):
            Index.open(root)
        shutil.copy(tmp_path / "kept", root / name)
    # What the manifest does not name is not opened.
    (root / "shard-00009.faiss").write_bytes(b"never opened")
    Index.open(root)


def test_a_replaced_file_with_the_old_time_is_found(root):
    path = root / "shard-00000.f16"
    Index.open(root)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    flip(path, 1000)
    os.utime(path, ns=times)
    with pytest.raises(IndexDataError, match=r"shard-00000\.f16"):
        Index.open(root)


def test_manifest_reads_back_and_stands_alone(pristine):
    manifest = Manifest.read(str(pristine))
    assert manifest.rows == len(XB)
    again = Manifest.from_json(manifest.to_json(), where="here")
    assert replace(again, spec=replace(again.spec, root=str(pristine))) == manifest
    document = json.loads((pristine / "manifest.json").read_text())
    assert document["spec"]["model_id"] == "model-a" and str(pristine) not in manifest.to_json()
    assert document["spec"]["plan"]["factory"] == manifest.spec.plan.factory
    assert set(document["layout"]) >= {"quantizer.faiss", "shard-NNNNN.f16"}


def test_only_the_manifest_that_was_committed_is_read(root, tmp_path):
    manifest = Manifest.read(str(root))
    committed = hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()
    assert committed == manifest.sha256
    assert Manifest.read(str(root), sha256=committed) == manifest
    Index.open(root, manifest_sha256=committed)
    # Another index's, whole in itself; then this one's with points, which says what it replaced.
    build(tmp_path / "other", XB[:1000], small_ivf_plan(1000, 48, shards=2))
    shutil.copy(tmp_path / "other" / "manifest.json", root / "manifest.json")
    for read in (Manifest.read, Index.open):
        options = {"manifest_sha256" if read == Index.open else "sha256": committed}
        with pytest.raises(IndexDataError, match=f"was committed with {committed[:16]}"):
            read(str(root), **options)
    points = (OperatingPoint("any", 10, 0.9, 4, 10, 0.91, 0.9, 1.0),)
    written = replace(manifest, points=points, replaces=committed).write(str(root))
    for known in (committed, written.sha256, None):
        assert Manifest.read(str(root), sha256=known).points == points
    with pytest.raises(IndexDataError, match="it is of another build"):
        Manifest.read(str(root), sha256="0" * 64)


def test_an_index_is_whole_wherever_it_lies(root, tmp_path):
    moved = root.rename(tmp_path / "elsewhere")
    manifest = Manifest.read(str(moved))
    assert manifest.spec.root == str(moved) and manifest.missing_files() == []
    (moved / "shard-00001.f16").unlink()
    (moved / "quantizer.faiss").write_bytes(b"short")
    said = manifest.missing_files()
    assert len(said) == 2
    assert said[0].startswith(f"{moved}/quantizer.faiss has 5 bytes instead of ")
    assert said[1] == f"{moved}/shard-00001.f16 is gone"


def test_manifests_that_do_not_hold_together_are_refused(pristine):
    manifest = Manifest.read(str(pristine))
    first, second = manifest.shards
    with pytest.raises(IndexDataError, match=r"has 2 shards by its plan.*\[0\]"):
        replace(manifest, shards=(first,))
    with pytest.raises(IndexDataError, match="shard 1 of index index-1 was built with quantizer"):
        replace(manifest, shards=(first, replace(second, quantizer_sha256="0" * 64)))
    outside = replace(second, index=replace(second.index, name="../elsewhere.faiss"))
    with pytest.raises(IndexDataError, match="not a plain file name"):
        replace(manifest, shards=(first, outside))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"sha256": 1}', "\xff"])
def test_other_documents_are_not_manifests(text):
    with pytest.raises(IndexDataError, match="here is not an index manifest"):
        Manifest.from_json(text, where="here")


def test_a_cache_that_others_can_write_to_is_not_used(root, tmp_path, monkeypatch):
    """The default one lies in the temp folder, where anybody may have made a folder of its name before."""
    remote = f"memory://{tmp_path.name}/guarded"
    fsspec.filesystem("memory").put(f"{root}/", remote.removeprefix("memory:/"), recursive=True)
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    cache = tmp_path / f"gme-lake-index-cache-{os.getuid()}"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(IndexDataError, match=rf"{cache} must be a folder of user .* drwxrwxrwx"):
        Index.open(remote)
    assert not list(cache.iterdir())
    cache.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "theirs")
    with pytest.raises(IndexDataError, match=r"found user .* l"):
        Index.open(remote)
    cache.unlink()
    Index.open(remote)
    assert cache.stat().st_mode & 0o777 == 0o700 and len(list(cache.iterdir())) == 7


def test_remote_indexes_are_copied_once_and_checked(root, tmp_path):
    remote = f"memory://{tmp_path.name}/index"
    fsspec.filesystem("memory").put(f"{root}/", remote.removeprefix("memory:/"), recursive=True)
    cache = tmp_path / "cache"
    wanted = Index.open(root).search(XQ, SearchOptions(5))
    found = Index.open(remote, cache_dir=str(cache)).search(XQ, SearchOptions(5))
    np.testing.assert_array_equal(found.I, wanted.I)
    copies = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(copies) == 7
    assert not any(name.startswith(".") for name in copies)
    # A damaged copy is had again; the others are used as they are.
    broken = next(path for path in cache.iterdir() if path.name.endswith("shard-00001.f16"))
    flip(broken, 7)
    np.testing.assert_array_equal(
        Index.open(remote, cache_dir=str(cache)).search(XQ, SearchOptions(5)).I, wanted.I
    )
    after = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert [name for name in after if after[name] != copies[name]] == [broken.name]
    # Damage on the far side is an error that names the far side.
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/index/shard-00000.f16", b"short")
    shutil.rmtree(cache)
    with pytest.raises(IndexDataError, match=r"memory://.*shard-00000\.f16 has 5 bytes"):
        Index.open(remote, cache_dir=str(cache))
    assert not any(path.name.startswith(".") for path in cache.iterdir())
