"""What a source table must be like is said before the first row is embedded, with what is there and what to do."""

import pytest

from jobs.settings.embed import EmbedSettings, SourceSettings
from jobs.stages.embed.source_checks import (
    SourceColumns,
    check_contents,
    check_id,
    check_written,
    image_kind,
)
from jobs.stages.embed.template import template_columns
from udfs.errors import LakeError

COLUMNS = SourceColumns(
    "/lake/products",
    {
        "id": "bigint",
        "Title": "string",
        "a.b c`d-ü": "string",
        "photo": "binary",
        "file": "string",
        "parts": "array<string>",
    },
)


def written(columns=(), properties=None, text="{title}", **embed):
    types = COLUMNS.types | dict(columns)
    settings = SourceSettings(text=text)
    check_written(
        SourceColumns("/lake/products", types), EmbedSettings(**embed), settings, properties or {}
    )


def test_templates_name_columns_of_any_name_but_with_braces():
    assert template_columns("{Title}: {a.b c`d-ü}, {{not this}} {x:y!r}") == [
        "Title",
        "a.b c`d-ü",
        "x:y!r",
    ]
    assert template_columns("") == template_columns("title") == []
    for bad in ("{title", "title}", "{}", "{a{b}", "{{a}"):
        with pytest.raises(LakeError, match=r"not a template.*found '[{}]+' at character"):
            template_columns(bad)


def test_columns_are_found_as_spark_finds_them():
    assert COLUMNS.find("TITLE") == "Title" and COLUMNS.find("titel") is None
    assert SourceColumns("t", COLUMNS.types, exact=True).find("title") is None
    twice = SourceColumns("t", {"a": "int", "A": "int"})
    assert twice.find("A") == "A"
    with pytest.raises(LakeError, match="column ab of t may be any of AB, Ab"):
        SourceColumns("t", {"AB": "int", "Ab": "int"}).find("ab")


def test_a_missing_column_is_named_with_the_nearest_and_all():
    with pytest.raises(
        LakeError, match=r"column titel is not in /lake/products; did you mean Title\? It has: id,"
    ):
        COLUMNS.type_of("titel")
    with pytest.raises(LakeError, match=r"not in /lake/products\. It has: id, Title, a\.b c`d-ü"):
        COLUMNS.type_of("zzzzzz")


def test_a_text_that_is_the_same_for_every_row_is_refused():
    check_contents(COLUMNS, SourceSettings(text="{title}"))
    check_contents(COLUMNS, SourceSettings(text="", image="photo"))
    for text, hint in (
        ("title", r"did you mean \{title\}\?"),
        ("Title: title", r"did you mean \{Title\}: \{title\}\?"),
        ("a product", r"write \{column\} where one belongs"),
        ("{{title}}", r"has no \{column\} in it"),
    ):
        with pytest.raises(LakeError, match=hint):
            check_contents(COLUMNS, SourceSettings(text=text))
    with pytest.raises(LakeError, match="nothing to embed"):
        check_contents(COLUMNS, SourceSettings(text=" ", image=None))


def test_ids_have_one_spelling():
    check_id(COLUMNS, "ID")
    for column, kind in (("parts", "array<string>"), ("photo", "binary")):
        with pytest.raises(LakeError, match=f"source.id={column} of .* is {kind}"):
            check_id(COLUMNS, column)
    check_id(SourceColumns("t", {"at": "timestamp_ntz"}), "at")
    with pytest.raises(LakeError, match="is timestamp: expected"):  # another in each time zone
        check_id(SourceColumns("t", {"at": "timestamp"}), "at")


def test_pictures_are_bytes_or_paths():
    assert image_kind(SourceSettings(image="Photo"), COLUMNS) == "bytes"
    assert image_kind(SourceSettings(image="file"), COLUMNS) == "uri"
    assert image_kind(SourceSettings(image="photo", image_uri="FILE"), COLUMNS) == "both"
    with pytest.raises(LakeError, match="column parts of /lake/products is array<string>"):
        image_kind(SourceSettings(image="parts"), COLUMNS)


@pytest.mark.parametrize(
    ("columns", "embed", "words"),
    [
        ([("Embedding", "string")], {}, "column Embedding, .*set embed.vector_column"),
        ([("VECTOR_ID", "int")], {}, "column VECTOR_ID, .*rename it"),
        (
            [("embedding_MODEL", "int"), ("vector_id", "int")],
            {},
            "rename vector_id, and set embed.model_column",
        ),
        ([], {"vector_column": "Vector_ID"}, "expected different names"),
        ([], {"vector_column": "x", "model_column": "X"}, "expected different names"),
        ([("_change_type", "string")], {"write_back": "none"}, "Delta's change feed"),
        ([("Embedding", "string")], {"write_back": "columns"}, "is string, vectors need array"),
        (
            [("embedding", "array<float>")],
            {"write_back": "columns"},
            "that embed-table has not made.*written over",
        ),
    ],
)
def test_columns_that_a_run_would_write_over_are_refused(columns, embed, words):
    with pytest.raises(LakeError, match=words):
        written(columns, **embed)


def test_columns_of_earlier_runs_are_written_again():
    own = [("Embedding", "array<float>"), ("embedding_model", "string")]
    written(own, write_back="columns")
    written([("vector_id", "int")], write_back="columns")
    written([("vector_id", "int"), ("embedding", "string")], write_back="none")
    with pytest.raises(LakeError, match="read by section source and written by"):
        written(own, text="{Embedding_Model}", write_back="columns")


def test_a_table_that_only_takes_rows_gets_no_columns():
    only = {"delta.appendOnly": "TRUE"}
    written(properties=only)
    with pytest.raises(LakeError, match=r"delta.appendOnly=true.*write_back to view or none"):
        written(properties=only, write_back="columns")


def test_columns_that_delta_cannot_add_or_write_are_refused():
    feed, mapped = {"delta.enableChangeDataFeed": "true"}, {"delta.columnMapping.mode": "name"}
    with pytest.raises(LakeError, match=r"takes no column my vector: .*delta.columnMapping.mode"):
        written(vector_column="my vector", write_back="columns")
    written(vector_column="my vector", write_back="columns", properties=mapped)
    with pytest.raises(LakeError, match=r"cannot change rows .*change feed .*a\.b c`d-ü"):
        written(write_back="columns", properties=feed)
    written(properties=feed)
