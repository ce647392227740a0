"""What READMEs name is there: links and their headings, paths, the map, and what examples in Python import."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from tests.readmes import ROOT, anchors, blocks, links, paths, readmes, tree

PAGES = readmes()
ROOMS = {path.name for path in ROOT.iterdir() if path.is_dir()}


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=_name)


def _broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere."""
    found = []
    for link in links(text):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (
            anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text("utf-8")))
        ):
            found.append(link)
    return found


def test_every_room_has_its_page() -> None:
    rooms = {"jobs", "udfs", "conf", "conf/gme-tiny", "notebooks", "tests/bench"}
    assert {_name(page.parent) for page in PAGES} == {".", *rooms}


@pages
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text("utf-8")
    assert links(text)
    assert not _broken(page, text)


@pages
def test_paths_in_sentences_exist(page: Path) -> None:
    gone = [p for p in paths(page.read_text("utf-8"), ROOMS) if not (ROOT / p).exists()]
    assert not [p for p in gone if p != "dist/"]


def test_the_map_is_the_tree() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    shown = tree(text)
    assert not [name for name in shown if not (ROOT / name).is_dir()]
    below = {
        f"{room}/{p.parent.name}/"
        for room in ("jobs", "udfs")
        for p in ROOT.glob(f"{room}/*/__init__.py")
    }
    assert {name for name in shown if name.count("/") == 2} == below
    assert len([p for p in paths(text, ROOMS) if p.endswith(".py")]) > 20  # the two ways


@pages
def test_targets_of_make_exist(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = re.findall(r"`make ([\w-]+)[^`]*`", page.read_text("utf-8"))
    assert set(named) <= {*targets, "help"}


@pages
def test_examples_in_python_import_what_is_there(page: Path) -> None:
    for block in blocks(page.read_text("utf-8"), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_what_is_not_there_is_seen(tmp_path: Path) -> None:
    """The checks above on a page that breaks each of them."""
    page = tmp_path / "README.md"
    page.write_text("# One way\n\n```text\njobs/  x\n  nowhere/  y\n```\n", "utf-8")
    text = (
        "[a](README.md#one-way) [b](#other) [c](gone.md) `jobs/gone.py` `a/b` [d](https://x.org/y)"
    )
    assert _broken(page, text) == ["#other", "gone.md"]
    assert paths(text, ROOMS) == ["jobs/gone.py"]
    assert tree(page.read_text("utf-8")) == ["jobs/", "jobs/nowhere/"]
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "README.md").touch()
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "README.md").touch()
    (tmp_path / "room" / "below").mkdir(parents=True)
    (tmp_path / "room" / "below" / "README.md").touch()
    assert readmes(tmp_path) == [page, tmp_path / "room" / "below" / "README.md"]
