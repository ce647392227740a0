"""The page of a lake's state: everything on it, escaped, self-contained, for phones and the dark, and bounded."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from jobs.reports.lake_status import LakeStatus
from jobs.reports.status_page import History, write_status_page
from jobs.stages.status.history import MEASURES
from jobs.stages.status.page import REJECTED_SHOWN, RUNS_SHOWN
from tests.unit.reports.states import history, lake_status, rejected
from tests.unit.reports.test_hits import NASTY, Structure
from udfs.drawing import draw_jpeg

MUG = draw_jpeg("mug", "red", "dots", seed=0)


def page(tmp_path, *, word="word", image=None, **more):
    known = {
        "lake": f"/lake/{word}",
        "status": lake_status(word),
        "history": history(word),
        "rejected": rejected(word, image=image),
        "more": ["source: 3 of 100 rows are not embedded", f"next refresh: {word}"],
    }
    return write_status_page(tmp_path / "new" / "status.html", **(known | more)).read_text("utf-8")


def test_what_an_operator_wants_to_know_is_on_it(tmp_path):
    html = page(tmp_path, image=MUG)
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html, re.S))
    assert facts == {
        "release": "7\n2026-11-26 12:00 UTC",
        "model": "gme 2\n0123456789abcdef",
        "coverage": "95.0%\n95 of 100 rows",
        "index": "index-1\nbuilt 2026-11-26 12:00 UTC",
        "rows not in the index": "3 of 100",
        "rows of it that are gone": "2",
        "added since it was trained": "40 rows",
        "drift": "1.25 times the loss of trained rows",
    }
    assert "source: 3 of 100 rows are not embedded\nnext refresh: word" in html
    assert html.count("<svg") == 2 and html.count("<circle") == 9
    assert html.count("<title>release 7</title>") == 2
    assert re.findall(r'<span class="(?:good|bad)">(.*?)</span>', html) == [
        *("refused", "passed", "released by force"),
        *("failed", "succeeded", "succeeded"),
    ]
    assert "1 image missing, 4 too slow; 2 of them" in html
    assert html.count("data:image/jpeg;base64,") == 1
    assert '<td class="number" data-name="tokens/s">4,321</td>' in html
    assert '<td class="number" data-name="busy">88%</td>' in html
    assert "1,200 embedded" in html and "0 rejected" not in html


@settings(max_examples=40, deadline=None)
@given(word=st.sampled_from(NASTY) | st.text(min_size=1))
def test_no_text_changes_the_structure_of_the_page(tmp_path_factory, word):
    tmp_path = tmp_path_factory.mktemp("status")
    html = page(tmp_path, word=word)
    assert Structure(html).tags == Structure(page(tmp_path)).tags
    assert html.count(str(escape(word)).replace("\r\n", "\n").replace("\r", "\n")) >= 4


def test_the_page_needs_nothing_from_outside_and_fits_phones_and_the_dark(tmp_path):
    html = page(tmp_path, image=MUG)
    links = Structure(html).links
    assert links and all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert "default-src 'none'" in html and "<script" not in html
    assert not re.search(r"https?://|@import|url\(", html)
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html
    style = re.search(r"<style>(.*?)</style>", html, re.S)[1]
    # Colours of lines and words come from the palettes: no other one would be seen in both.
    drawn = re.findall(r"(?:fill|stroke): ([^;]+);", style)
    assert drawn and all(colour == "none" or colour.startswith("var(--") for colour in drawn)
    assert not re.search(r'(?:fill|stroke)="', html)
    # Long words break in cells of words; cells of numbers do not, and on phones rows become lines of them.
    assert re.search(r"th, td \{[^}]*overflow-wrap: anywhere", style)
    assert re.search(r"max-width: 760px\) \{\s*thead \{ display: none", style)


def test_a_lake_with_nothing_in_it_says_so(tmp_path):
    nothing = LakeStatus(None, {}, {}, None, None, None, [])
    html = page(tmp_path, status=nothing, history=History({}, {}, [], []), rejected=[], more=[])
    assert "none yet" in html and html.count("Nothing was measured yet.") == 2
    assert "The gate has decided nothing yet." in html
    assert "Every row of the released model has a vector." in html
    assert "No run has written into the lake yet." in html
    assert "<svg" not in html and "<table" not in html and 'class="note"' not in html


@pytest.mark.parametrize("reason", ["index-1 is no longer in gme.indexes", None])
def test_an_index_that_cannot_be_told_of_says_why(tmp_path, reason):
    status = lake_status()
    html = page(
        tmp_path,
        status=LakeStatus(status.release, status.rows, {}, None, reason, None, status.runs),
    )
    assert f"<dt>index</dt><dd>{reason or 'none'}</dd>" in html


def test_the_largest_page_stays_small(tmp_path):
    rows = rejected("x" * 10_000, image=MUG)[:1] * REJECTED_SHOWN
    html = page(
        tmp_path,
        word="y" * 3_000,
        rejected=rows,
        status=lake_status("y" * 3_000, runs=RUNS_SHOWN),
        history=history(points=MEASURES),
    )
    assert len(html) < 2_000_000
