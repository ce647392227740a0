"""A lake's state with something in every part of it."""

from datetime import UTC, datetime, timedelta

from jobs.lake.gates import Decision, GateCheck
from jobs.lake.indexes import Age
from jobs.reports.chart import Measure
from jobs.reports.lake_status import IndexState, LakeStatus, ListedRun
from jobs.reports.release_table import ListedRelease
from jobs.reports.status_page import History, RejectedRow

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def lake_status(word: str = "word", *, runs: int = 3) -> LakeStatus:
    release = ListedRelease(7, True, NOON, "gme", "2", "0123456789abcdef", 12, "index-1", word)
    index = IndexState(NOON, Age(100, 3, 99, 2), 1.25, "index-0", 40)
    bad = ListedRun("build_index", NOON, "failed", 1.5, {}, {}, word)
    good = ListedRun(
        "embed_table",
        NOON,
        "succeeded",
        1234.56,
        {"embedded": 1200, "rejected": 0},
        {"tokens_per_second": 4321.4, "model_busy": 0.876, "batch_fill": 0.5, "cost": 12.3},
        None,
    )
    rows = {"image_missing": 1, "ok": 95, "too_slow": 4}
    return LakeStatus(release, rows, {}, index, None, decision(word), [bad, *[good] * (runs - 1)])


def decision(word: str = "word", *, passed: bool = False, forced: bool = False) -> Decision:
    checks = (
        GateCheck("coverage", 0.95, 0.9, True, "95 of 100 rows have a vector"),
        GateCheck("recall.any", 0.8, 0.9, passed, word),
    )
    return Decision("0123456789abcdef", "index-1", checks, forced, word)


def history(word: str = "word", *, points: int = 3) -> History:
    def line(base: float) -> list[Measure]:
        return [
            Measure(NOON + timedelta(days=n), base + n * 0.001, base - 0.01, base + 0.01)
            for n in range(points)
        ]

    return History(
        {"any": line(0.97), word: line(0.9)},
        {word: line(0.95)},
        [(NOON + timedelta(days=1), 7)],
        [
            (NOON, decision(word)),
            (NOON, decision(word, passed=True)),
            (NOON, decision(word, forced=True)),
        ],
    )


def rejected(word: str = "word", *, image: bytes | None = None) -> list[RejectedRow]:
    return [
        RejectedRow(word, "image_truncated", word, word, image),
        RejectedRow("p2", "image_missing", None),
    ]
