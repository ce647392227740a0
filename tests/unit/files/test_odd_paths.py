"""Whatever a row names as its picture: a status with a reason for it, never the end of the task."""

import base64
import os
import socket
from pathlib import Path

import pyarrow as pa
import pytest

from udfs import storage
from udfs.embed.stamp import stamp_images
from udfs.errors import RowRejected
from udfs.files.image_files import read_image, read_images, stamp_image
from udfs.files.places import PlaceRefusedError, require_permitted
from udfs.specs import ReadSpec

ANYWHERE = ReadSpec(tries=1, connect_seconds=2, first_byte_seconds=2, file_seconds=4)
LOCAL = ReadSpec(schemes=("file", "dbfs", "https", "data"), tries=1, connect_seconds=2)
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

# Path, then the reason where any place may be named, and where only local paths, https and data may be.
ODD = [
    ("s3:/b/k", "image_unreachable", "image_refused"),
    ("s3://", "image_unreachable", "image_refused"),
    ("s3:///k", "image_unreachable", "image_refused"),
    ("S3A:b", "image_unreachable", "image_refused"),
    ("foo://x", "image_unreachable", "image_refused"),
    ("ipfs://bafy/a.jpg", "image_unreachable", "image_refused"),
    ("gs://", "image_unreachable", "image_refused"),
    ("gs:b/k", "image_unreachable", "image_refused"),
    ("gcs://", "image_unreachable", "image_refused"),
    ("hdfs:", "image_unreachable", "image_refused"),
    ("abfss:container@account/a.jpg", "image_unreachable", "image_refused"),
    ("viewfs:///", "image_unreachable", "image_refused"),
    ("ssh://host/a.jpg", "image_unreachable", "image_refused"),
    ("sftp://host/a.jpg", "image_unreachable", "image_refused"),
    ("smb://host/share/a.jpg", "image_unreachable", "image_refused"),
    ("zip://a.jpg::/nowhere/b.zip", "image_missing", "image_refused"),
    ("zip://a.jpg::{text}", "image_unreachable", "image_refused"),
    ("tar://a.jpg::{text}", "image_unreachable", "image_refused"),
    ("simplecache::/etc/passwd", None, "image_refused"),
    ("reference://", "image_unreachable", "image_refused"),
    ("local:///nowhere/a.jpg", "image_missing", "image_missing"),
    ("img:1.jpg", "image_unreachable", "image_refused"),
    ("https:/../../../../../../../../../etc/passwd", "image_unreachable", "image_unreachable"),
    ("https:x://../../etc/passwd", "image_unreachable", "image_unreachable"),
    ("javascript:alert(1)", "image_unreachable", "image_refused"),
    ("mailto:a@b.c", "image_unreachable", "image_refused"),
    ("http://", "image_unreachable", "image_refused"),
    ("http://[::1/a.jpg", "image_unreachable", "image_refused"),
    ("https://" + "a" * 300 + "/x.jpg", "image_unreachable", "image_unreachable"),
    ("https://exa mple/a b.jpg", "image_unreachable", "image_unreachable"),
    ("https://h:99999/a.jpg", "image_unreachable", "image_unreachable"),
    ("https://\x00/a", "image_unreachable", "image_unreachable"),
    ("/a\x00b.jpg", "image_unreachable", "image_unreachable"),
    ("file:///a%00b.jpg", "image_unreachable", "image_unreachable"),
    ("/" + "n" * 300 + ".jpg", "image_unreachable", "image_unreachable"),
    ("/" + "d/" * 5000, "image_unreachable", "image_unreachable"),
    ("", "image_not_a_file", "image_not_a_file"),
    (".", "image_not_a_file", "image_not_a_file"),
    ("/nowhere/a.jpg", "image_missing", "image_missing"),
    ("file:nowhere.jpg", "image_missing", "image_missing"),
    ("dbfs:/nowhere.jpg", "image_missing", "image_missing"),
    ("{text}/a.jpg", "image_unreachable", "image_unreachable"),
    ("/proc/self/environ", "image_refused", "image_refused"),
    ("/dev/zero", "image_not_a_file", "image_not_a_file"),
    ("/dev/../proc/self/maps", "image_refused", "image_refused"),
    ("data:image/png;base64", "image_corrupt", "image_corrupt"),
    ("data:image/png;base64,§§§", "image_corrupt", "image_corrupt"),
    ("a\udcffb.jpg", "not_utf8", "not_utf8"),
]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(storage, "_GCS_SECONDS", 1)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(b"no picture and no archive: SECRET")
    return str(file)


@pytest.mark.parametrize(("uri", "anywhere", "local"), ODD, ids=[ascii(o[0])[:40] for o in ODD])
def test_each_odd_path_gets_a_status_and_a_stamp(uri, anywhere, local, text):
    uri = uri.replace("{text}", text)
    for spec, expected in ((ANYWHERE, anywhere), (LOCAL, local)):
        if expected is not None:
            with pytest.raises(RowRejected) as caught:
                read_image(uri, spec=spec)
            assert caught.value.status == expected, caught.value.detail
            assert caught.value.detail
            assert len(caught.value.detail) < 1000
            assert "SECRET" not in caught.value.detail
            caught.value.detail.encode()
        assert stamp_image(uri, spec=spec)


def test_a_batch_of_odd_paths_is_stamped_in_order_and_its_ids_pass_untouched(text):
    uris = [uri.replace("{text}", text) for uri, _, _ in ODD if uri.isprintable() or "\x00" in uri]
    coded = [None, *(uri.encode() for uri in uris), b"\xff.jpg", text.encode()]
    n = len(coded)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([b"\xfe%d" % i for i in range(n)], pa.binary()).view(pa.string()),
            pa.array(["h"] * n),
            pa.array([0] * n, pa.int64()),
            pa.array(coded, pa.binary()).view(pa.string()),
        ],
        ["id", "row_hash", "commit_version", "image_uri"],
    )
    (made,) = stamp_images(iter([batch]), spec=LOCAL)
    assert made["id"].equals(batch["id"])
    stamps = made["image_stamp"].cast(pa.binary()).to_pylist()
    assert stamps[0] is None
    assert all(stamps[1:])
    assert stamps[-2].endswith(b"|not_utf8")
    version = Path(text).stat().st_mtime_ns
    assert stamps[-1] == f"{text}|33|{version}".encode()


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link to a pipe"])
def test_special_files_are_refused_unopened(kind, tmp_path):
    path = tmp_path / "special"
    if kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        os.mkfifo(path)
    if kind.startswith("link"):
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "special")
    with pytest.raises(RowRejected) as caught:
        read_image(str(path), spec=ANYWHERE)
    assert caught.value.status == "image_not_a_file"


def test_a_pipe_that_takes_a_files_place_meanwhile_does_not_block(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    really = storage._require_file

    def swapped(where, mode):
        really(where, mode)
        if path.is_file():
            path.unlink()
            os.mkfifo(path)

    monkeypatch.setattr(storage, "_require_file", swapped)
    with pytest.raises(storage.NotAFileError):
        storage.read_bytes(str(path), max_bytes=10)


def test_data_uris_are_read_as_what_they_are():
    coded = base64.b64encode(PIXEL).decode()
    for uri in (
        f"data:image/png;base64,{coded}",
        f"DATA:image/png;charset=x;BASE64,{coded.rstrip('=')}",
        f"data:;base64,{coded[:20]}\n {coded[20:]}",
        "data:image/png;base64," + coded.replace("+", "%2B").replace("=", "%3D"),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PIXEL),
    ):
        assert read_image(uri, spec=LOCAL) == PIXEL
        assert stamp_image(uri, spec=LOCAL) == "data"
    assert read_image("data:,A%20brief%20note", spec=LOCAL) == b"A brief note"


@pytest.mark.parametrize("uri", ["data:;base64," + "QUFB" * 100, "data:," + "%41" * 300])
def test_a_data_uri_is_bounded_and_its_content_stays_out_of_the_reason(uri):
    assert read_image(uri, spec=ReadSpec(max_bytes=300)) == b"A" * 300
    with pytest.raises(RowRejected) as caught:
        read_image(uri, spec=ReadSpec(max_bytes=299))
    assert caught.value.status == "image_too_large"
    assert len(caught.value.detail) < 200
    with pytest.raises(RowRejected) as caught:
        read_image(uri, spec=ReadSpec(schemes=("file",)))
    assert caught.value.status == "image_refused"


def test_a_table_in_an_object_store_reads_no_local_files(text):
    spec = ReadSpec(schemes=("s3", "https", "data"))
    for uri in (text, f"file://{text}", f"local://{text}", "/etc/passwd", "dbfs:/x", "../x"):
        with pytest.raises(PlaceRefusedError, match=r"not among source\.schemes"):
            require_permitted(uri, spec=spec)
    for uri in ("s3://b/k", "s3a://b/k", "https://h/x"):
        assert require_permitted(uri, spec=spec) == uri


def test_roots_hold_against_links_and_steps_up(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "in-other"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"s")
    (inside / "a.jpg").write_bytes(b"a")
    (inside / "link.jpg").symlink_to(outside / "secret")
    (inside / "own.jpg").symlink_to(inside / "a.jpg")
    (inside / "folder").symlink_to(outside)
    (tmp_path / "root").symlink_to(inside)
    for root in (inside, tmp_path / "root"):
        spec = ReadSpec(roots=(str(root),))
        for good in (f"{inside}/a.jpg", f"{root}/../in/a.jpg", f"file://{inside}/own.jpg"):
            assert read_image(good, spec=spec) == b"a"
            assert stamp_image(good, spec=spec) == stamp_image(good, spec=ANYWHERE)
        for bad in (
            "file:///etc/passwd",
            f"{inside}/link.jpg",
            f"{inside}/folder/secret",
            f"{inside}/../in-other/secret",
            f"file://{inside}/%2e%2e/in-other/secret",
            f"{outside}/secret",
            "https://host/a.jpg",
            "s3://b/k",
        ):
            with pytest.raises(RowRejected) as caught:
                read_image(bad, spec=spec)
            assert caught.value.status == "image_refused"
            assert stamp_image(bad, spec=spec) == f"{bad}|refused"


@pytest.mark.parametrize(
    ("uri", "good"),
    [
        ("s3://b/pictures/a.jpg", True),
        ("s3a://b/pictures/x/a.jpg", True),
        ("s3://b/pictures-other/a.jpg", False),
        ("s3://other/pictures/a.jpg", False),
        ("s3://b/pictures/../secret", False),
        ("s3://b/pictures/%2e%2e/secret", False),
        ("https://cdn.shop/i/a.jpg?w=5", True),
        ("https://CDN.shop:443/i/a.jpg", True),
        ("https://cdn.shop:8443/i/a.jpg", False),
        ("https://cdn.shop@evil/i/a.jpg", False),
        ("https://cdn.shop.evil/i/a.jpg", False),
        ("https://cdn.shop/i/../secret", False),
        ("https://cdn.shop/i/%252e%252e/secret", False),
        ("https://cdn.shop/i/..\\secret", False),
        ("http://cdn.shop/i/a.jpg", False),
        ("/i/a.jpg", False),
    ],
)
def test_remote_roots(uri, good):
    spec = ReadSpec(roots=("s3://b/pictures/", "https://cdn.shop/i"))
    if good:
        assert require_permitted(uri, spec=spec) == uri
    else:
        with pytest.raises(PlaceRefusedError):
            require_permitted(uri, spec=spec)


def test_every_link_of_a_chain_must_be_permitted(tmp_path):
    spec = ReadSpec(schemes=("zip", "https"))
    with pytest.raises(PlaceRefusedError, match="'file'"):
        require_permitted("zip://a::/etc/x.zip", spec=spec)
    with pytest.raises(PlaceRefusedError, match="'simplecache'"):
        require_permitted("simplecache::https://h/x", spec=spec)
    assert require_permitted("zip://a.jpg::https://h/x.zip", spec=spec)
    assert require_permitted("https://h/a::b.jpg", spec=spec)


def test_files_are_read_in_order_each_with_its_own_outcome(tmp_path):
    for n in range(40):
        (tmp_path / str(n)).write_bytes(b"%d" % n)
    uris = [str(tmp_path / str(n if n % 7 else 99)) for n in range(40)]
    for threads in (1, 4):
        found = list(read_images(uris, spec=ReadSpec(threads=threads)))
        for n, outcome in enumerate(found):
            if n % 7:
                assert outcome == b"%d" % n
            else:
                assert isinstance(outcome, RowRejected)
                assert outcome.status == "image_missing"
