"""The report page: escaped, self-contained, bounded in size, and clear where there is no picture."""

import base64
import io
import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape
from PIL import Image

from jobs.reports.hits import Hit, QueryResult, print_hits, write_search_report
from jobs.reports.thumbnails import MAX_BYTES, SIDE, thumbnail
from udfs.drawing import draw_jpeg
from udfs.drawing.broken import break_picture

ROOT = Path(__file__).resolve().parents[3]
MUG = draw_jpeg("mug", "red", "dots", seed=0)


def noise(side, spread):
    out = io.BytesIO()
    bands = [Image.effect_noise((side, side), spread) for _ in range(3)]
    Image.merge("RGB", bands).save(out, "PNG")
    return out.getvalue()


class Structure(HTMLParser):
    """Tags with their attribute names, and links of any kind."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.links += [
            value for name, value in attrs if name in ("src", "href", "action", "srcset")
        ]


def page(tmp_path, *, word="word", image=None, queries=4, **more):
    hits = [Hit(1, word, 0.5, word, image), Hit(2, "plain", 0.25)]
    results = [QueryResult(word, word, image, hits) for _ in range(queries)]
    target = write_search_report(
        tmp_path / "new" / "report.html",
        title=word,
        queries=results,
        facts={word: word},
        note=word,
        **more,
    )
    return target.read_text("utf-8")


NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "</title></style><svg/onload=alert(1)>",
    "&lt;b&gt; & <b>",
]


@settings(max_examples=40, deadline=None)
@given(word=st.sampled_from(NASTY) | st.text(min_size=1))
def test_no_text_changes_the_structure_of_the_page(tmp_path_factory, word):
    tmp_path = tmp_path_factory.mktemp("report")
    html = page(tmp_path, word=word)
    assert Structure(html).tags == Structure(page(tmp_path)).tags
    assert html.count(str(escape(word)).replace("\r\n", "\n").replace("\r", "\n")) >= 4


def test_damaged_unicode_does_not_stop_a_report(tmp_path):
    assert "half \ud83d pair".encode("utf-8", "xmlcharrefreplace").decode() in page(
        tmp_path, word="half \ud83d pair"
    )


def test_the_page_needs_nothing_from_outside(tmp_path):
    html = page(tmp_path, image=MUG)
    links = Structure(html).links
    assert links and all(link.startswith(("data:image/jpeg;base64,", "#q")) for link in links)
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|@import|url\(", html)


def test_thumbnails_show_the_picture_small(tmp_path):
    html = page(tmp_path, image=MUG)
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    small = Image.open(io.BytesIO(data))
    assert small.format == "JPEG" and small.size == (SIDE, SIDE)
    wanted = Image.open(io.BytesIO(MUG)).resize((8, 8)).tobytes()
    assert max(abs(a - b) for a, b in zip(small.resize((8, 8)).tobytes(), wanted, strict=True)) < 30


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("truncated", "truncated"),
        ("html", "unsupported format"),
        ("no_bytes", "empty"),
        ("bomb", "too many pixels"),
    ],
)
def test_a_broken_picture_is_a_tile_with_the_reason(tmp_path, fault, reason):
    html = page(tmp_path, image=break_picture(MUG, fault=fault))
    assert f"no picture<small>{reason}</small>" in html
    assert "<img" not in html


def test_a_row_without_picture_and_a_query_without_hits_say_so(tmp_path):
    html = page(tmp_path, image=None)
    assert 'title="the row has no picture"' in html
    empty = write_search_report(
        tmp_path / "e.html", title="t", queries=[QueryResult("q", "words")], facts={}
    )
    assert "No hits." in empty.read_text("utf-8")


def test_facts_keep_their_order_and_an_old_page_is_replaced(tmp_path):
    page(tmp_path, image=MUG)
    facts = {"Rows embedded": "2,361", "Model": "gme", "Index": "IVF64"}
    path = write_search_report(tmp_path / "new" / "report.html", title="t", queries=[], facts=facts)
    html = path.read_text("utf-8")
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html) == list(facts.items())
    assert "base64" not in html


@pytest.mark.parametrize("side", [1, 100, 400])
@pytest.mark.parametrize("spread", [20, 120])
def test_thumbnails_are_bounded_even_for_noise(side, spread):
    small = thumbnail(noise(side, spread))
    assert small.src is not None
    assert len(base64.b64decode(small.src.partition(",")[2])) <= MAX_BYTES


def test_fifty_queries_of_ten_hits_stay_under_six_megabytes(tmp_path):
    pictures = [noise(SIDE, spread) for spread in range(2, 30, 2)]
    largest = max(pictures, key=lambda data: len(thumbnail(data).src))
    assert len(thumbnail(largest).src) > 0.85 * MAX_BYTES * 4 / 3, "not the worst case"
    hits = [Hit(i, f"product-{i:030d}", 0.5, "A long title " * 8, largest) for i in range(1, 11)]
    queries = [
        QueryResult(f"q{i}", "a query of some length " * 4, largest, hits) for i in range(50)
    ]
    path = write_search_report(tmp_path / "r.html", title="t", queries=queries, facts={})
    assert 4_000_000 < path.stat().st_size < 6_000_000


@pytest.mark.slow
def test_templates_are_found_inside_a_zip(tmp_path):
    archive = tmp_path / "project.zip"
    with zipfile.ZipFile(archive, "w") as z:
        for path in [*ROOT.glob("jobs/**/*"), *ROOT.glob("udfs/**/*")]:
            if path.suffix in (".py", ".html"):
                z.write(path, path.relative_to(ROOT))
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "from jobs.reports import hits as report\n"
        "assert '.zip' in report.__file__, report.__file__\n"
        "print(report.write_search_report('r.html', title='t', queries=[], facts={}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert "<title>t</title>" in (tmp_path / "r.html").read_text("utf-8")


def test_the_terminal_table_shows_hits_and_obeys_no_markup():
    out = io.StringIO()
    hits = [Hit(1, "p1", 0.91234, "[red]Red[/red] mug \x1b[31m"), Hit(2, "p2", 0.5)]
    print_hits([QueryResult("q7", "a mug", MUG, hits), QueryResult("q8", "nothing")], file=out)
    text = out.getvalue()
    assert "q7: a mug + [picture]" in text and "q8: nothing: no hits" in text
    assert "[red]Red[/red] mug" in text and "0.9123" in text and "p2" in text
    assert "\x1b" not in text
