"""Every page in headless Chromium: on a phone, a tablet and a screen, by day and by night (some 20 s in all)."""

import pytest

from tests.browser import VIEWS, browser_path, faults, open_browser
from tests.unit.reports.shown_pages import PAGES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        browser_path() is None, reason="no Chromium on PATH: scripts/chromium installs it"
    ),
]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_fault_in_any_window(name, browser, tmp_path):
    page = PAGES[name](tmp_path / f"{name}.html")
    found = {str(view): faults(browser, page, view) for view in VIEWS}
    assert {view: one for view, one in found.items() if one} == {}


BROKEN = """<html lang="en"><head><title>t</title></head><body><main>
<p style="color: #aaa; background: #fff">too pale</p>
<img alt="a mug" src="data:image/png;base64,AAAA">
<div style="width: 90px">%s</div>
<a href="#x" style="outline: none">nowhere</a><a href="#y" tabindex="-1">not by Tab</a>
<script>console.log("hello"); fetch("http://localhost:9/");</script>
</main></body></html>""" % ("w" * 90)


def test_faults_are_found(browser, tmp_path):
    file = tmp_path / "broken.html"
    file.write_text(BROKEN)
    found = "\n".join(faults(browser, file, VIEWS[0]))
    for said in (
        "console: hello",
        "asks for http://localhost:9/",
        "picture a mug",
        "overflows: div",
    ):
        assert said in found
    for said in ("no outline where Tab stops", "Tab reaches 1 of 2", "color-contrast"):
        assert said in found
