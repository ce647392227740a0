"""Files by path and URI: local disk, and fsspec's in-memory store in place of a remote one."""

import os
import shutil
import time

import fsspec
import pytest

from udfs import storage
from udfs.errors import ImageRejected
from udfs.files.image_files import read_image
from udfs.specs import ReadSpec

REMOTE = "memory://bucket/folder"


@pytest.fixture(params=["path", "file uri", "memory"])
def root(request, tmp_path):
    yield {"path": str(tmp_path), "file uri": tmp_path.as_uri(), "memory": REMOTE}[request.param]
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def local(tmp_path):
    file = tmp_path / "local file"
    file.write_bytes(b"0123456789")
    return file


def test_publish_read_stat_fetch(root, local, tmp_path):
    uri = storage.join(root, "deep/a b.bin")
    assert not storage.exists(uri)
    storage.publish(local, uri)
    assert storage.exists(uri)
    assert storage.read_bytes(uri, max_bytes=10) == b"0123456789"
    assert storage.stat(uri)[0] == 10
    storage.fetch(uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"


def test_names_of_a_folder(root, local):
    assert storage.names(storage.join(root, "absent")) == []
    for name in ("set/b", "set/a", "set/deep/c"):
        storage.publish(local, storage.join(root, name))
    assert storage.names(storage.join(root, "set")) == ["a", "b", "deep"]


def test_a_folder_is_measured_and_removed_with_all_in_it(root, local):
    folder = storage.join(root, "set")
    assert storage.usage(folder) == storage.Usage(0, None)
    storage.remove_folder(folder)
    before = time.time() - 1
    for name in ("set/a", "set/deep/b", "other"):
        storage.publish(local, storage.join(root, name))
    found = storage.usage(folder)
    assert found.bytes == 20
    assert found.changed is None or before <= found.changed <= time.time() + 1
    storage.remove_folder(folder)
    assert not storage.exists(folder)
    assert storage.exists(storage.join(root, "other"))


@pytest.mark.parametrize("step", ["unlink", "rmdir", "open"])
def test_a_folder_that_another_process_removes_meanwhile_is_removed(
    tmp_path, local, monkeypatch, step
):
    folder, real = tmp_path / "set", getattr(os, step)
    for name in ("a", "deep/b", "deep/deeper/c"):
        storage.publish(local, str(folder / name))

    def first_the_other(*arguments, **options):
        monkeypatch.setattr(os, step, real)
        shutil.rmtree(folder)
        return real(*arguments, **options)

    monkeypatch.setattr(os, step, first_the_other)
    storage.remove_folder(str(folder))
    assert not folder.exists() and local.exists()
    assert getattr(os, step) is real, "the other one came"


def test_a_folder_that_may_not_be_removed_is_an_error(tmp_path, local, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "not yours")

    storage.publish(local, str(tmp_path / "set" / "a"))
    monkeypatch.setattr(os, "unlink", refused)
    with pytest.raises(PermissionError, match="not yours"):
        storage.remove_folder(str(tmp_path / "set"))


def test_publish_replaces_and_changes_the_version(root, local):
    uri = storage.join(root, "file")
    storage.publish(local, uri)
    before = storage.stat(uri)
    local.write_bytes(b"other")
    storage.publish(local, uri)
    assert storage.read_bytes(uri, max_bytes=10) == b"other"
    assert storage.stat(uri) != before


def test_nothing_temporary_is_left(tmp_path, local):
    storage.publish(local, str(tmp_path / "out" / "file"))
    storage.publish(local, REMOTE + "/file")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["file"]
    names = [name for name in fsspec.filesystem("memory").find("/bucket") if "tmp" in name]
    fsspec.filesystem("memory").store.clear()
    assert names == []


def test_a_failed_fetch_leaves_no_file(root, tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.fetch(storage.join(root, "absent"), tmp_path / "copy")
    assert not any("copy" in file.name for file in tmp_path.iterdir())


def test_pictures_that_cannot_be_read_say_why(root, local):
    storage.publish(local, storage.join(root, "file"))
    for name, limit, reason in [("absent", 10, "missing"), ("file", 9, "too_large")]:
        with pytest.raises(ImageRejected) as caught:
            read_image(storage.join(root, name), spec=ReadSpec(max_bytes=limit))
        assert caught.value.reason == reason
    assert read_image(storage.join(root, "file"), spec=ReadSpec(max_bytes=10)) == b"0123456789"


@pytest.mark.parametrize("uri", ["nosuchscheme://a/b", "http://127.0.0.1:9/a.jpg"])
def test_an_unreachable_place(uri):
    with pytest.raises(ImageRejected) as caught:
        read_image(uri, spec=ReadSpec(tries=1))
    assert caught.value.reason == "unreachable"


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(ImageRejected) as caught:
        read_image(str(tmp_path), spec=ReadSpec())
    assert caught.value.reason == "not_a_file"


def test_databricks_paths_are_local():
    assert str(storage.local_path("dbfs:/Volumes/a/b")) == "/Volumes/a/b"
    assert str(storage.local_path("dbfs:/mnt/a")) == "/dbfs/mnt/a"
    assert storage.local_path("s3a://bucket/a") is None


def test_object_names_are_taken_literally():
    assert storage._filesystem("gs://bucket/a b/c#d%20.jpg")[1] == "bucket/a b/c#d%20.jpg"


def test_files_that_are_removed_while_a_folder_is_listed_are_not_there(tmp_path, monkeypatch):
    """Delta writes a commit under another name and renames it: a purge lists the lake beside its own beats."""
    for name in ("kept", ".commit.tmp"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    walk = os.walk

    def walk_and_rename(path):
        yield from list(walk(path))
        (tmp_path / ".commit.tmp").rename(tmp_path / "commit")

    monkeypatch.setattr(os, "walk", walk_and_rename)
    assert storage.files(str(tmp_path)) == {str(tmp_path / "kept"): 4}
