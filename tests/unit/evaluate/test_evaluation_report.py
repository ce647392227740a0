"""The page of an evaluation: table, marks, pictures; escaped, self-contained, and clear where something is missing."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from jobs.stages.evaluate.figures.compare import differences
from jobs.stages.evaluate.figures.summary import summarise
from jobs.stages.evaluate.page.examples import pick_queries
from jobs.stages.evaluate.page.html import (
    EvaluationPage,
    Example,
    Shown,
    TaskExamples,
    write_evaluation_report,
)
from tests.unit.evaluate.scored import task_score
from udfs.drawing import draw_jpeg
from udfs.drawing.broken import break_picture

MUG = draw_jpeg("mug", "red", "dots", seed=0)
RNG = np.random.default_rng(0)
TASKS = [
    task_score("fiqa", "t2t", RNG.random(40)),
    task_score("nights", "i2i", RNG.random(40), metric="hit@5"),
    task_score("composed", "it2i", RNG.random(40)),
]


class Page(HTMLParser):
    """Tags with their attribute names, values of links, and the text of each table row's cells."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.rows = [], [], []
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data


def write(tmp_path, **values):
    page = EvaluationPage(**{"title": "t", "lines": summarise(TASKS), "facts": {}} | values)
    return write_evaluation_report(tmp_path / "new" / "page.html", page).read_text("utf-8")


def examples(*, good=(), bad=(), name="fiqa"):
    return [TaskExamples(name, good, bad)]


def test_the_table_has_a_row_for_every_line_with_its_figures(tmp_path):
    new = [task_score(t.name, t.pair, t.values + 0.25, metric=t.metric) for t in TASKS[:1]]
    changes = {(row.level, row.name): row.difference for row in differences(new, TASKS[:1])}
    floors = {"fiqa": {"chance": 0.02, "BM25": 0.87}, "nights": {"chance": 0.03}}
    html = write(tmp_path, floors=floors, differences={"new − version 2": changes})
    head, *rows = Page(html).rows
    assert head[:4] == ["task", "score, 95 % interval", "metric", "queries"]
    assert head[4:] == ["chance", "BM25", "new − version 2"]
    lines = summarise(TASKS)
    assert len(rows) == len(lines)
    for cells, line in zip(rows, lines, strict=True):
        assert cells[0].startswith(line.name)
        score = line.score
        assert cells[1] == f"{score.mean:.3f} {score.low:.3f}–{score.high:.3f}"
        assert cells[2:4] == [line.metric, str(score.queries)]
    by_name = {line.name: cells for cells, line in zip(rows, lines, strict=True)}
    assert by_name["fiqa"][4:] == ["0.020", "0.870", "▲ +0.250 +0.250 … +0.250"]
    assert by_name["nights"][4:] == ["0.030", "", ""]
    assert "image + text → image" in by_name["it2i"][0] and "1 dataset" in by_name["it2i"][0]


@pytest.mark.parametrize(
    ("change", "shown", "mark"),
    [(-0.5, "▼ −0.500", "down"), (0.0, "0.000", None), (1e-9, "▲ 0.000", "up")],
)
def test_differences_are_marked_by_sign_and_colour(tmp_path, change, shown, mark):
    new = [task_score("fiqa", "t2t", TASKS[0].values + change)]
    changes = {(row.level, row.name): row.difference for row in differences(new, TASKS[:1])}
    html = write(tmp_path, lines=summarise(new), differences={"change": changes})
    assert [cells[-1].startswith(shown) for cells in Page(html).rows[1:]] == [True] * 4
    assert html.count('class="up"') == (4 if mark == "up" else 0)
    assert html.count('class="down"') == (4 if mark == "down" else 0)


def test_right_hits_are_marked_and_wanted_ones_shown(tmp_path):
    hits = [Shown("a", "first words", score=0.5), Shown("b", "a mug", MUG, 0.25, right=True)]
    query = Example("q7", 0.5, "a red mug", instruction="Find it.", hits=hits)
    lost = Example("q8", 0.0, image=MUG, hits=hits[:1], wanted=[Shown("c", image=MUG, right=True)])
    html = write(tmp_path, examples=examples(good=[query], bad=[lost]))
    right = re.findall(r'<li class="right">.*?<div class="id">(.*?)</div>', html, re.S)
    assert right == ["b", "c"] and html.count("✓ right") == 2
    assert 'href="#t1"' in html and 'id="t1"' in html
    assert 'class="pic words"><p>first words</p>' in html and "Picture alone" in html
    assert (
        html.index("went well") < html.index("q7 ·") < html.index("went badly") < html.index("q8 ·")
    )
    assert html.index("q8 ·") < html.index("what it should have found")
    assert html.count("what it should have found") == 1
    assert html.count("data:image/jpeg;base64,") == 3
    assert "ndcg@10 <b>0.500</b> · Find it." in html


def test_what_is_missing_is_said(tmp_path):
    broken = Shown("x", "words", break_picture(MUG, fault="truncated"))
    queries = [Example("q1", 0.0, "asked"), Example("q2", 0.0, "b", hits=[broken, Shown("y")])]
    html = write(tmp_path, examples=examples(bad=queries))
    assert html.count("No hits.") == 1 and "went well" not in html
    assert "no picture<small>truncated</small>" in html
    assert 'title="the row has no picture"' in html
    bare = write(tmp_path)
    assert "<section" not in bare and "<dl>" not in bare and "new −" not in bare


NASTY = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "' x='"]


@settings(max_examples=25, deadline=None)
@given(word=st.sampled_from(NASTY) | st.text(min_size=1, max_size=50))
def test_no_text_changes_the_structure_of_the_page(tmp_path_factory, word):
    def page(text):
        query = Example(text, 1.0, text, None, text, [Shown(text, text, MUG), Shown("b", text)])
        return write(
            tmp_path_factory.mktemp("page"),
            title=text,
            facts={text: text},
            note=text,
            lines=summarise([task_score(text, "t2t", [1.0])]),
            examples=examples(good=[query], name=text),
            floors={text: {text: 0.5}},
        )

    html, plain = page(word), page("word")
    assert Page(html).tags == Page(plain).tags
    assert html.count(str(escape(word)).replace("\r\n", "\n").replace("\r", "\n")) >= 4


def test_the_page_needs_nothing_from_outside_and_works_in_the_dark(tmp_path):
    query = Example("q", 1.0, "mug", MUG, hits=[Shown("a", image=MUG)])
    html = write(tmp_path, examples=examples(good=[query]))
    links = Page(html).links
    assert links and all(link.startswith(("data:image/jpeg;base64,", "#t")) for link in links)
    assert "default-src 'none'" in html and not re.search(r"https?://|@import|url\(", html)
    assert html.count("prefers-color-scheme: dark") == 2


def test_shown_queries_are_the_best_and_the_worst():
    values = np.array([0.5, 1.0, 0.0, 1.0, 0.2, 0.0, 0.9, 1.0])
    good, bad = pick_queries(task_score("a", "t2t", values), count=3)
    assert sorted(good) == ["q001", "q003", "q007"] and set(bad[:2]) == {"q002", "q005"}
    assert bad[2] == "q004"
    assert pick_queries(task_score("a", "t2t", values), count=3) == (good, bad)
    nothing = pick_queries(task_score("a", "t2t", [0.0, 0.0]))
    assert (nothing[0], sorted(nothing[1])) == ([], ["q000", "q001"])
    few = pick_queries(task_score("a", "t2t", [0.3, 0.6]), count=3)
    assert few == (["q001"], ["q000"])
    assert pick_queries(task_score("a", "t2t", [0.3])) == (["q000"], [])
    many = [f"q{n:03}" for n in range(3)]
    drawn = pick_queries(task_score("b", "t2t", [0.0] * 100), count=3)[1]
    assert len(set(drawn)) == 3 and drawn != many
