"""What people read of the lake in SQL: every table, view and column that is made says what it is, in which unit."""

from __future__ import annotations

import re

import pytest

from jobs.lake.tables import TABLES
from jobs.settings.conf import conf_names, conf_text

# What a name promises to be measured in, and a word that its comment then has.
_UNITS = {
    r"(^|_)bytes($|_)": "bytes",
    r"(^|_)seconds$": "seconds",
    r"^ms_": "milliseconds",
    r"(^|_)hours$": "hours",
    r"(^|_)tokens$": "tokens",
    r"^cost$": "currency",
    r"^(recall|first|share|shares|value|mean)$|_share$": "0 to 1",
    r"_(low|high)$|^(low|high)$": "95 % interval",
}
_VIEW = re.compile(
    r"^CREATE OR REPLACE VIEW \{schema\}\.(\w+)(?: \((?P<columns>.*?)\n\))?\nCOMMENT '(?P<comment>[^'\n]+)'\nAS SELECT",
    re.MULTILINE | re.DOTALL,
)
_COMMENTED = re.compile(r"^ +(\w+)(?:: \w+)? COMMENT '([^'\n]+)',?$", re.MULTILINE)
_VIEWS = [
    text for name in conf_names("sql") if "REPLACE VIEW" in (text := conf_text(f"sql/{name}"))
]


def lacking(comments: dict[str, str]) -> list[str]:
    """Columns without a comment, or whose comment does not say the unit that their name promises."""
    units = {name: [unit for name_has, unit in _UNITS.items() if re.search(name_has, name)]
             for name in comments}  # fmt: skip
    return [c for c, said in comments.items() if not said or any(u not in said for u in units[c])]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_says_what_it_is_and_its_columns_in_which_unit(table):
    assert len(table.comment) > 20 and table.comment.endswith(".")
    assert not lacking(table.comments)
    assert list(table.comments) == [*(table.identity or ())[:1], *(c[0] for c in table.columns)]


@pytest.mark.parametrize(
    "text", _VIEWS, ids=lambda text: re.findall(r"VIEW \{schema\}\.(\w+)", text)[0]
)
def test_a_view_says_what_one_row_is_and_its_own_columns_in_which_unit(text):
    """Columns without a comment of their own are a table's, which keep that table's."""
    found = _VIEW.search(text)
    assert (
        found
        and found["comment"].startswith("One row for each ")
        and found["comment"].endswith(".")
    )
    own = dict(_COMMENTED.findall(text))
    assert not lacking(own)
    passed = re.findall(r"^  (\w+),?$", found["columns"] or "", re.MULTILINE)
    assert set(passed) <= {name for table in TABLES for name in table.comments}
    assert not set(passed) & own.keys()


def test_a_comment_without_its_unit_is_seen():
    said = {"bytes": "bytes of it", "ms_p95": "how long", "wall_seconds": "", "recall": "0 to 1"}
    assert lacking(said) == ["ms_p95", "wall_seconds"]


def test_no_grant_is_published():
    """What an analyst may do is for a catalog's owner to say: the template lies beside what lakes run."""
    assert "GRANT SELECT" in conf_text("grants.sql") and "NOT RUN HERE" in conf_text("grants.sql")
    assert not [name for name in conf_names("sql") if "GRANT" in conf_text(f"sql/{name}").upper()]
    views = {name for text in _VIEWS for name in re.findall(r"VIEW \{schema\}\.(\w+)", text)}
    granted = set(
        re.findall(
            r"^GRANT SELECT ON TABLE main\.gme\.(\w+) TO analysts",
            conf_text("grants.sql"),
            re.MULTILINE,
        )
    )
    assert granted == views
