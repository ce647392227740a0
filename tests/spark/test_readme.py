"""Every command and SQL statement of the READMEs does what it says."""

from pathlib import Path

import click
import pytest

from jobs.driver.cli import gme_lake
from jobs.settings.load import load_settings
from jobs.stages.sql.session_functions import register_functions
from tests.lake_settings import settings_of
from tests.readmes import blocks, commands, readmes
from tests.spark.conftest import SOURCE_SCHEMA, source_rows
from tests.spark.index_vectors import release

TEXTS = [page.read_text("utf-8") for page in readmes()]
COMMANDS = [words for text in TEXTS for words in commands(text)]


def test_the_readmes_have_commands():
    assert len(COMMANDS) >= 14
    assert len(commands(TEXTS[0])) >= 3


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_lines_parse_and_their_settings_exist(words, tmp_path):
    group = gme_lake()
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, f"no job {words[0]}"
    file = tmp_path / "given"
    file.touch()
    is_file = [word.endswith((".yaml", ".txt")) and "=" not in word for word in words]
    words = [str(file) if f else word for word, f in zip(words, is_file, strict=True)][1:]
    if isinstance(command, click.Group):
        command, words = command.get_command(click.Context(command), words[0]), words[1:]
        assert command is not None
    with command.make_context("gme-lake", list(words), resilient_parsing=False) as context:
        sets = context.params.get("sets", ())
    load_settings(sets=sets, env={})


@pytest.mark.long
@pytest.mark.spark
def test_sql_examples_run(shop):
    # The first page's own table: its columns as refresh-lake is told there, and its name for the view of it.
    words = next(line for line in COMMANDS if line[0] == "refresh-lake")
    sets = [word for word in words if "=" in word and not word.startswith("source.table=")]
    columns = dict(s.removeprefix("source.").split("=", 1) for s in sets)
    rows = [*source_rows(range(15)), ("bad", None, None, b"<html>", 0.0)]
    frame = shop.spark.createDataFrame(rows, SOURCE_SCHEMA)
    frame = frame.withColumnsRenamed({"id": columns["id"], "image": columns["image"]})
    frame.write.format("delta").save(shop.table)
    assert f"source.table=/lake/{Path(shop.table).name}" in words
    lake, _ = shop.embed(*sets)
    release(lake)
    register_functions(lake, settings_of(lake))
    sql = [block for text in TEXTS for block in blocks(text, "sql")]
    statements = [s for block in sql for s in block.split(";") if s.strip()]
    assert len(statements) >= 7
    for statement in statements:
        rows = shop.spark.sql(statement.replace("gme.", f"{lake.schema}.")).collect()
        assert rows, f"no rows: {statement}"
