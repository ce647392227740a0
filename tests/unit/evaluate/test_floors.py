"""Figures of plain methods: read from a file, and those that are shipped are the data's own."""

import re

import pytest

from jobs.stages.evaluate.figures.floors import read_floors
from tests.shared import shared
from udfs.errors import SettingsError


def test_no_file_is_no_floors():
    assert read_floors(None) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks: {}", "floors"),
        ("floors: {a: {ndcg@10: 0.5}}", "expected `floors:` with task, metric, name and value"),
        ("floors: {a: {accuracy: {BM25: 0.5}}}", "metric 'accuracy'"),
        ("- 1", "expected `floors:`"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, text, said):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        read_floors(str(file))


def test_shipped_floors_are_those_that_the_data_came_with():
    readme = shared("retrieval", "README.md").read_text("utf-8")
    table = readme.split("| task | chance | colour | BM25 |")[1]
    rows = re.findall(r"^\| (\w+)[^|]*\|([^|]*)\|([^|]*)\|([^|]*)\|$", table, re.MULTILINE)
    wanted: dict[str, dict[str, dict[str, float]]] = {}
    for task, _, colour, bm25 in rows:
        for name, cell in (("colour", colour), ("BM25", bm25)):
            for metric, value in zip(("ndcg@10", "hit@1", "hit@5"), cell.split("/"), strict=False):
                if value.strip():
                    wanted.setdefault(task, {}).setdefault(metric, {})[name] = float(value)
    assert len(wanted) == 4 and read_floors("floors.yaml") == wanted
