"""Paths as a lake's tables name them, and what lies in the lake: that alone may be deleted."""

import pytest

from jobs.lake.lake import Lake


def lake_at(root) -> Lake:
    """A lake that is not open: paths need its root only."""
    lake = Lake.__new__(Lake)
    lake.root = str(root)
    return lake


@pytest.mark.parametrize("root", ["/data/lake", "s3://bucket/a lake", "/it's a/lake"])
def test_paths_in_the_lake_are_named_from_its_root(root):
    lake = lake_at(root)
    path = lake.folder("indexes", "abc", "shard.faiss")
    assert lake.relative(path) == "./indexes/abc/shard.faiss"
    assert (
        lake_at("/elsewhere").resolve(lake.relative(path)) == "/elsewhere/indexes/abc/shard.faiss"
    )
    for outside in ("/data/lake2/indexes", f"{root}-2/x", "s3://other/lake/x", "main.gme.products"):
        assert lake.relative(outside) == lake.resolve(outside) == outside


def test_only_what_lies_below_the_root_is_held(tmp_path):
    root, other = tmp_path / "lake", tmp_path / "lake2"
    (root / "indexes" / "a").mkdir(parents=True)
    (other / "a").mkdir(parents=True)
    (root / "indexes" / "link").symlink_to(other)
    (root / "inner").symlink_to(root / "indexes")
    (tmp_path / "alias").symlink_to(root)
    for lake in (lake_at(root), lake_at(tmp_path / "alias")):
        for path in ("indexes/a", "indexes/missing", "inner/a", "indexes/../indexes/a"):
            assert lake.holds(f"{root}/{path}"), path
        for path in ("", "/", "/..", "/../lake2/a", "/indexes/link", "/indexes/link/a", "2", "2/a"):
            assert not lake.holds(f"{root}{path}"), path
        assert not lake.holds("s3://bucket/lake/a")
    remote = lake_at("s3://bucket/lake")
    assert remote.holds("s3://bucket/lake/indexes/a")
    for path in ("s3://bucket/lake", "s3://bucket/lake/../a", "s3://bucket/lake2/a", str(root)):
        assert not remote.holds(path)
