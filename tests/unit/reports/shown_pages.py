"""Every kind of page that commands write, with awkward content in each part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jobs.reports.hits import Hit, QueryResult, write_search_report
from jobs.reports.html_page import write_html
from jobs.reports.status_page import write_status_page
from jobs.stages.evaluate.figures.compare import differences
from jobs.stages.evaluate.figures.summary import summarise
from jobs.stages.evaluate.page.html import (
    EvaluationPage,
    Example,
    Shown,
    TaskExamples,
    write_evaluation_report,
)
from jobs.stages.recall.record import write_report
from jobs.stages.recall.summary import Group, figures
from tests.unit.evaluate.scored import task_score
from tests.unit.reports.states import history, lake_status, rejected
from udfs.drawing import draw_jpeg
from udfs.index.points import Point
from udfs.recall.tuning import Measured

MUG, KITE = (draw_jpeg(kind, "red", "dots", seed=0) for kind in ("mug", "kite"))
LONG = "https://shop.example/" + "catalogue-of-everything/" * 12 + "?id=0123456789"
PROSE = "A striped mug, dishwasher safe, that holds three hundred millilitres. " * 12
ARABIC = "كوب أحمر مخطط يتسع لثلاثمئة مليلتر " * 6
WORDS = (LONG, PROSE, ARABIC, "<b>mug</b> & 'cup' \u202e", "杯" * 200)
FACTS = {"rows": "1,234,567,890", "model": LONG, "rejected": "3 image missing\n1 too slow"}


def search_page(file: Path) -> Path:
    hits = [
        Hit(n + 1, word, 0.9 - n / 10, word, (MUG, KITE, None, b"no picture")[n % 4])
        for n, word in enumerate(WORDS)
    ]
    queries = [
        QueryResult(word, word if n % 2 else None, MUG if n % 3 else None, hits)
        for n, word in enumerate(WORDS)
    ]
    queries.append(QueryResult("none", "finds nothing"))
    return write_search_report(file, title=LONG, queries=queries, facts=FACTS, note=PROSE)


def evaluation_page(file: Path) -> Path:
    rng = np.random.default_rng(0)
    pairs = {"fiqa": "t2t", LONG[:120]: "i2i", "composed": "it2it", "pages": "t2vd"}
    tasks = [task_score(name, pair, rng.random(40)) for name, pair in pairs.items()]
    before = [task_score(t.name, t.pair, t.values - 0.1) for t in tasks]
    changes = {(row.level, row.name): row.difference for row in differences(tasks, before)}
    shown = [
        Shown(word, word if n % 2 else None, MUG if n % 3 else None, 0.5, n == 1)
        for n, word in enumerate(WORDS)
    ]
    asked = [
        Example(word, 0.25, word, KITE if n % 2 else None, PROSE, shown, shown[:2])
        for n, word in enumerate(WORDS)
    ]
    examples = [TaskExamples(name, asked[:2], asked[2:]) for name in pairs]
    page = EvaluationPage(
        title="Evaluation",
        lines=summarise(tasks),
        facts=FACTS,
        examples=examples,
        floors={"fiqa": {"chance": 0.02, "BM25": 0.87}},
        differences={"gme 12 − gme 11": changes, "gme 12 − another model": changes},
        note=LONG,
    )
    return write_evaluation_report(file, page)


def recall_page(file: Path) -> Path:
    rng = np.random.default_rng(0)
    points = [
        Measured(Point(n, f), rng.binomial(10, 0.9, 40) / 10, np.ones(40), rng.random(40) + n)
        for n in (1, 16, 256)
        for f in (1, 10)
    ]
    groups = {Group("any", "category", LONG): np.ones(40, bool), Group("any"): np.ones(40, bool)}
    groups |= {Group("image,text"): np.arange(40) % 2 == 0}
    measured = list(figures(points, groups, k=10))
    page, _ = write_report(str(file), measured, title=f"Recall of {LONG}", facts=FACTS)
    return page


def status_page(file: Path) -> Path:
    return write_status_page(
        file,
        lake=LONG,
        status=lake_status(PROSE, runs=5),
        history=history(LONG),
        rejected=rejected(LONG, image=MUG),
        more=[PROSE, "source: 3 of 100 rows are not embedded"],
    )


def duplicates_page(file: Path) -> Path:
    rows = [Hit(n, word, 0.99, word, MUG if n % 2 else None) for n, word in enumerate(WORDS, 1)]
    values = {"title": "Near duplicates", "facts": FACTS, "note": PROSE}
    clusters = [(12_345, rows), (2, rows[:2])]
    return write_html(
        file, template="duplicates_report.html", values=values | {"clusters": clusters, "of": 9_876}
    )


PAGES: dict[str, Callable[[Path], Path]] = {
    "search": search_page,
    "evaluation": evaluation_page,
    "recall": recall_page,
    "status": status_page,
    "duplicates": duplicates_page,
}
