"""The state of a lake and how it came to be, as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobs.lake.gates import Decision
from jobs.reports.chart import Measure, draw_shares
from jobs.reports.html_page import write_html
from jobs.reports.lake_status import LakeStatus, figure, rows_said


@dataclass(frozen=True)
class RejectedRow:
    """A row without a vector, and why; `text` and `image` (an encoded picture) where the source still has them."""

    id: str
    status: str
    error: str | None
    text: str | None = None
    image: bytes | None = None


@dataclass(frozen=True)
class History:
    """`recall` by kind of query, at each index's own point; `coverage` by model; `releases` (time, release_id)."""

    recall: Mapping[str, Sequence[Measure]]
    coverage: Mapping[str, Sequence[Measure]]
    releases: Sequence[tuple[datetime, int]]
    decisions: Sequence[tuple[datetime, Decision]]


def write_status_page(
    path: str | Path,
    *,
    lake: str,
    status: LakeStatus,
    history: History,
    rejected: Sequence[RejectedRow],
    more: Sequence[str],
) -> Path:
    """Write the page; `lake` is the lake's root, `more` are lines on what is ahead, shown on top. Returns the path.

    All text is escaped. OSError where the file cannot be written.
    """
    marks = [(at, f"release {number}") for at, number in history.releases]
    values = {
        "title": "State of the lake",
        "lake": lake,
        "facts": _facts(status),
        "note": "\n".join(more) or None,
        "recall": draw_shares(history.recall, marks=marks),
        "coverage": draw_shares(history.coverage, marks=marks),
        "decisions": history.decisions,
        "rejected": rejected,
        "rejected_counts": {name: n for name, n in status.rows.items() if name != "ok"},
        "runs": status.runs,
        "figure": figure,
        "rows_said": rows_said,
    }
    return write_html(path, template="status_report.html", values=values)


def _facts(status: LakeStatus) -> dict[str, str]:
    release = status.release
    if release is None:
        return {"release": "none yet"}
    named = f"{release.model_name} {release.model_version}\n" if release.model_name else ""
    total, good = sum(status.rows.values()), status.rows.get("ok", 0)
    facts = {
        "release": f"{release.release_id}\n{release.released_at:%Y-%m-%d %H:%M} UTC",
        "model": f"{named}{release.model_id}",
        "coverage": "no rows"
        if status.coverage is None
        else f"{status.coverage:.1%}\n{good:,} of {total:,} rows",
    }
    index = status.index
    if index is None:
        return facts | {"index": status.index_error or "none"}
    facts["index"] = f"{release.index_id}\nbuilt {index.built_at:%Y-%m-%d %H:%M} UTC"
    facts["rows not in the index"] = f"{index.age.missing:,} of {index.age.live:,}"
    facts["rows of it that are gone"] = f"{index.age.gone:,}"
    if index.base is not None:
        facts["added since it was trained"] = f"{index.added:,} rows"
    if index.drift is not None:
        facts["drift"] = f"{index.drift:.2f} times the loss of trained rows"
    return facts
