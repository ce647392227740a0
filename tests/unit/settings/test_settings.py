"""Settings: what wins, and that every mistake is a SettingsError that says what to write instead."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.settings.conf import conf_names, conf_text, profile_named
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from udfs.errors import SettingsError


@pytest.fixture
def yaml_file(tmp_path: Path):
    """yaml_file("text") writes a settings file and returns its name."""

    def write(text: str | bytes, name: str = "settings.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_later_files_win_over_earlier_then_environment_then_set(yaml_file) -> None:
    first = yaml_file("search: {k: 1, nprobe: 1}\nindex: {nlist: 1, shards: 1, seed: 1}", "1.yaml")
    second = yaml_file("search: {nprobe: 2}\nindex: {nlist: 2, shards: 2}", "2.yaml")
    env = {"GME_LAKE_INDEX__NLIST": "3", "GME_LAKE_INDEX__SHARDS": "3", "OTHER": "x"}
    found = load_settings(files=[first, second], env=env, sets=["index.shards=4"])
    assert (found.search.k, found.search.nprobe) == (1, 2)
    assert (found.index.seed, found.index.nlist, found.index.shards) == (1, 3, 4)
    assert load_settings(env={}).index.nlist is None


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("source.tabel=x", ["source.tabel", "did you mean source.table?"]),
        ("sorce.table=x", ["unknown setting sorce", "did you mean source?"]),
        ("search.k=many", ["search.k='many'", "valid integer"]),
        ("search.k=0", ["search.k='0'", "greater than or equal to 1"]),
        ("search.k=1001", ["search.k='1001'", "less than or equal to 1000"]),
        ("search.min_score=1.5", ["search.min_score='1.5'", "less than or equal to 1"]),
        ("search.scatter=maybe", ["search.scatter", "'auto'"]),
        ("embed.write_back=tables", ["embed.write_back", "'view', 'columns' or 'none'"]),
        ("embed.bytes_per_batch=lots", ["embed.bytes_per_batch", "pattern"]),
        ("serving.token_budget=0", ["serving.token_budget", "greater than or equal to 1"]),
        ("lake.schema_=x", ["lake.schema_", "did you mean lake.schema?"]),
        ("lake.root=null", ["lake.root=None", "valid string"]),
        ("lake.root", ["--set lake.root", "section.key=value"]),
        ("lake=x", ["--set lake=x", "section.key", "'lake'"]),
        ("lake.root.x=1", ["--set lake.root.x=1", "section.key"]),
        ("_env_file.x=1", ["unknown setting _env_file"]),
        ("embed.table=x", ["unknown setting embed.table; did you mean source.table?"]),
        ("draw.zzz=x", ["unknown setting draw.zzz; there are draw.files, draw.rows"]),
    ],
)
def test_a_wrong_set_says_what_is_wrong(item: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(sets=[item], env={})
    assert all(word in str(error.value) for word in words), error.value


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"index\.nlist\? Setting search\.k=.*\.$"):
        load_settings(sets=["search.k=x", "index.nlists=3"], env={})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("GME_LAKE_SOURCE__TABEL", ["source.tabel", "did you mean source.table?"]),
        ("GME_LAKE_TABLE", ["environment variable GME_LAKE_TABLE", "section.key"]),
        ("GME_LAKE_SPARK__CONF__SPARK__CORES", ["--set spark.conf."]),
    ],
)
def test_a_mistyped_variable_is_an_error(name: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(env={name: "x"})
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b", ["expected sections"]),
        ("just words", ["expected sections"]),
        ("source: [a", ["not valid YAML"]),
        ("embed: {limit: 3}\nlake: {}\nembed: {}", ["key 'embed' stands here", "line 3"]),
        ("embed:\n  limit: 3\n  limit: 4", ["key 'limit' stands here", "line 3"]),
        ("source: products", ["source='products'", "dictionary"]),
        ("1: {a: 2}", ["1"]),
        ("source: {1: x}", ["source.1"]),
        (b"\xff\xfe\x00\x01", ["cannot be read as a text file"]),
    ],
)
def test_a_wrong_file_is_an_error_that_names_it(yaml_file, text: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(files=[yaml_file(text)], env={})
    assert all(word in str(error.value) for word in words), error.value


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: no such file"):
        load_settings(files=[str(tmp_path / "nowhere.yaml")], env={})
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(files=[str(tmp_path)], env={})


def test_an_empty_section_says_nothing(yaml_file) -> None:
    files = [yaml_file("search: {k: 7}", "1.yaml"), yaml_file("search:\n  # k: 3\n", "2.yaml")]
    assert load_settings(files=files, env={}).search.k == 7
    assert load_settings(files=[yaml_file("")], env={}) == load_settings(env={})


def test_null_is_a_value_also_of_a_key_that_is_called_as_a_section_is(yaml_file) -> None:
    files = [yaml_file("search: {recall: 0.9}\ngate: {recall: null}", "1.yaml")]
    assert load_settings(files=files, env={}).gate.recall is None
    files.append(yaml_file("search: {recall: null}", "2.yaml"))
    assert load_settings(files=files, env={}).search.recall is None


def test_spark_settings_keep_dots_and_capitals_and_merge(yaml_file) -> None:
    file = yaml_file("spark: {conf: {spark.ui.enabled: false, spark.cores.max: 2, a: b}}")
    sets = ["spark.conf.spark.sql.autoBroadcastJoinThreshold=-1", "spark.conf.a=c=d"]
    assert load_settings(files=[file], sets=sets, env={}).spark.conf == {
        "spark.ui.enabled": "false",
        "spark.cores.max": "2",
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "a": "c=d",
    }


def test_loading_leaves_no_trace_between_calls(yaml_file) -> None:
    file = yaml_file("spark: {conf: {a: b}}")
    load_settings(files=[file], sets=["spark.conf.x=y"], env={})
    assert load_settings(files=[file], env={}).spark.conf == {"a": "b"}


_words = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
_names = st.sampled_from([*Settings.model_fields, "conf", "spark", "k", "root", ""]) | _words
_items = st.builds(
    lambda parts, sign, value: ".".join(parts) + sign + value,
    st.lists(_names, max_size=4),
    st.sampled_from(["=", ""]),
    _words | st.sampled_from(["null", "1", "true", "{}"]),
)
_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | _words,
    lambda inner: st.dictionaries(_names | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(_items, max_size=4))
def test_any_set_gives_settings_or_a_settings_error(items: list[str]) -> None:
    try:
        assert isinstance(load_settings(sets=items, env={}), Settings)
    except SettingsError as error:
        assert str(error)


@given(st.lists(st.dictionaries(_names | st.integers(), _trees, max_size=3), max_size=2), _items)
def test_any_yaml_gives_settings_or_a_settings_error(tmp_path_factory, trees, item: str) -> None:
    import yaml

    folder = tmp_path_factory.mktemp("trees")
    files = []
    for number, tree in enumerate(trees):
        files.append(str(folder / f"{number}.yaml"))
        Path(files[-1]).write_text(yaml.safe_dump(tree, allow_unicode=True), "utf-8")
    try:
        assert isinstance(load_settings(files=files, sets=[item], env={}), Settings)
    except SettingsError as error:
        assert str(error)


def test_profiles_of_conf_load_and_an_unknown_one_is_named() -> None:
    assert profile_named("gme-qwen2-vl-7b").dim == 3584
    assert profile_named("reference").truncation == "reference"
    with pytest.raises(SettingsError, match="did you mean gme-qwen2-vl-2b"):
        profile_named("gme-qwen2-vl-2")


def test_conf_is_read_by_name() -> None:
    assert "knn.sql" in conf_names("sql")
    assert "profiles:" in conf_text("models.yaml")
    assert load_settings(files=["demo.yaml"], env={}).model.profile == "tiny"
