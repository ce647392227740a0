"""What makes a run look at every row of its source again."""

from jobs.settings.embed import SourceSettings
from jobs.stages.embed.source import Source
from udfs.specs import READ_ANYWHERE


def key(kind="uri", types=(), **settings):
    source = SourceSettings(table="t", **settings)
    return Source("t", source, kind, False, 0, READ_ANYWHERE, types=types).columns_key


def test_other_limits_for_paths_are_another_mapping():
    assert key() == key(tries=5) == key(threads=1)
    keys = {key(), key(schemes=["file"]), key(schemes=["file", "s3"]), key(roots=["/a"])}
    assert len(keys) == 4
    assert key("bytes", roots=["/a"]) == key("bytes")


def test_a_column_of_another_type_is_another_mapping():
    assert len({key(types=("string", kind)) for kind in ("int", "bigint", "decimal(10,2)")}) == 3


def test_lists_are_given_with_commas():
    settings = SourceSettings.model_validate({"schemes": "s3, https", "roots": "/a,s3://b/c"})
    assert settings.schemes == ["s3", "https"]
    assert settings.roots == ["/a", "s3://b/c"]
