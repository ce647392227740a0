"""The page of clusters: the largest first, their rows with pictures, texts and scores, and how many there are."""

import io
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pytest
from PIL import Image

from jobs.settings.load import load_settings
from jobs.stages.duplicates import report
from jobs.stages.duplicates.clusters import cluster_pairs


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 30)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def write(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """The text of a page of pairs, given as (id_a, id_b, score), and the ids whose pictures were asked for."""
    asked: set[str] = set()

    def previews(lake, ids, *, model_id, max_image_bytes):
        asked.update(ids)
        return {"a": ("a <red> mug", png())}

    monkeypatch.setattr(report, "source_previews", previews)
    target = SimpleNamespace(
        model_id="model-a", index_id="index-a", release=SimpleNamespace(release_id=3)
    )

    def page(pairs: list[tuple[str, str, float]], **counts: int) -> tuple[str, set[str]]:
        names = ["id_a", "id_b", "score"]
        kinds = [pa.string(), pa.string(), pa.float64()]
        columns = [[pair[at] for pair in pairs] for at in range(3)]
        table = pa.table([pa.array(*one) for one in zip(columns, kinds, strict=True)], names)
        run = SimpleNamespace(counts=Counter(counts), seconds={"search": 1.25})
        settings = load_settings(sets=[f"duplicates.report={tmp_path / 'p.html'}"], env={})
        clusters = cluster_pairs(table)
        path = report.write_page(None, run, clusters, target=target, settings=settings)
        return path.read_text("utf-8"), asked

    return page


def test_the_page_shows_clusters_and_escapes_what_rows_say(write) -> None:
    html, asked = write([("x", "y", 0.96), ("a", "b", 0.97), ("b", "c", 1.0)], exact_copies=1)
    assert asked == {"a", "b", "c", "x", "y"}
    assert "largest 2 of 2 clusters" in html
    assert html.index("3 rows") < html.index("2 rows")
    assert "a &lt;red&gt; mug" in html and "<red>" not in html
    assert html.count("data:image/jpeg") == 1 and html.count("<span>no picture") == 4
    assert html.count(">1.0000<") == 2 and html.count(">0.9700<") == 1
    assert "chains" not in html


def test_large_clusters_are_cut_and_said_to_be_chains(write) -> None:
    chain = [(f"r{n:03}", f"r{n + 1:03}", 0.95) for n in range(report.ROWS_SHOWN + 5)]
    html, asked = write(chain, clusters_too_large=1)
    assert asked == {f"r{n:03}" for n in range(report.ROWS_SHOWN)}
    assert f"{len(chain) + 1} rows" in html and f"the first {report.ROWS_SHOWN}" in html
    assert "1 of the clusters have more than 1,000 rows" in html


def test_without_pairs_the_page_says_so(write) -> None:
    assert "No near duplicates." in write([])[0]


def test_there_are_no_more_clusters_than_are_shown(write) -> None:
    pairs = [(f"a{n:03}", f"b{n:03}", 0.99) for n in range(report.CLUSTERS_SHOWN + 10)]
    html, asked = write(pairs)
    assert len(asked) == 2 * report.CLUSTERS_SHOWN
    assert f"largest {report.CLUSTERS_SHOWN} of {len(pairs)} clusters" in html
    assert f"a{report.CLUSTERS_SHOWN - 1:03}" in asked
