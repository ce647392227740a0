"""Every command and example of the README does what it says."""

import re
import shlex
from pathlib import Path

import click
import pytest

from jobs.driver.cli import gme_lake
from jobs.settings.load import load_settings
from tests.spark.conftest import SOURCE_SCHEMA, source_rows
from tests.spark.test_search import release

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    """Every gme-lake or submit.sh command line of the README, as words after its name."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(gme-lake [a-z-]+ [^`]*--set[^`]*)`", README.replace("\n", " "))
    words = [shlex.split(line, comments=True) for line in [*lines, *inline]]
    names = ("gme-lake", "conf/standalone/submit.sh")
    return [line[line.index(n) + 1 :] for line in words for n in names if n in line]


def test_the_readme_has_commands():
    assert len(commands()) >= 7


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_lines_parse_and_their_settings_exist(words, tmp_path):
    group = gme_lake()
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, f"no job {words[0]}"
    is_file = [word.endswith(".yaml") and "=" not in word for word in words]
    words = [str(tmp_path) if f else word for word, f in zip(words, is_file, strict=True)][1:]
    with command.make_context("gme-lake", list(words), resilient_parsing=False) as context:
        sets = context.params.get("sets", ())
    load_settings(sets=sets, env={})


@pytest.mark.spark
def test_sql_examples_run(shop):
    # The README's own table: its columns as embed-table is told there, and its name for the view of it.
    words = next(line for line in commands() if line[0] == "embed-table")
    sets = [word for word in words if "=" in word and not word.startswith("source.table=")]
    columns = dict(s.removeprefix("source.").split("=", 1) for s in sets)
    rows = [*source_rows(range(15)), ("bad", None, None, b"<html>", 0.0)]
    frame = shop.spark.createDataFrame(rows, SOURCE_SCHEMA)
    frame = frame.withColumnsRenamed({"id": columns["id"], "image": columns["image"]})
    frame.write.format("delta").save(shop.table)
    assert f"source.table=/lake/{Path(shop.table).name}" in words
    lake, _ = shop.embed(*sets)
    release(lake)
    statements = [s for block in blocks("sql") for s in block.split(";") if s.strip()]
    assert len(statements) >= 7
    for statement in statements:
        rows = shop.spark.sql(statement.replace("gme.", f"{lake.schema}.")).collect()
        assert rows, f"no rows: {statement}"
