"""Where rollbacks go, one after another, by the rows of `releases` alone; and how a model is named to be promoted."""

import json
from types import SimpleNamespace
from typing import ClassVar

import pytest

from jobs.driver.printing import json_line
from jobs.lake import releases
from jobs.lake.releases import Release, rollback_targets
from jobs.settings.load import load_settings
from jobs.stages.index.vacuum import Vacuum
from udfs.errors import RegistryError


def history(*steps: str) -> list[Release]:
    """Releases of steps: "A" promotes A, "<" rolls back once, "to 2" goes back to release 2; newest first."""
    rows: list[Release] = []
    for number, step in enumerate(steps, start=1):
        if step == "<":
            step = f"to {rollback_targets(rows[::-1])[1].release_id}"
        note, shown = None, step
        if step.startswith("to "):
            to = int(step[3:])
            note, shown = f"rollback from {number - 1} to {to}", rows[to - 1].index_id
        rows.append(Release(number, "model", 1, shown, note))
    return rows[::-1]


@pytest.mark.parametrize(
    ("steps", "targets"),
    [
        ([], ""),
        (["A"], "A"),
        (["A", "B", "C"], "CBA"),
        (["A", "B", "C", "<"], "BA"),
        (["A", "B", "C", "<", "<"], "A"),
        (["A", "B", "C", "<", "D"], "DBA"),  # a promote is a new head
        (["A", "B", "C", "<", "<", "D"], "DA"),
        (["A", "B", "C", "<", "D", "<", "<"], "A"),
        (["A", "B", "C", "to 1"], "A"),
        (["A", "B", "C", "<", "to 3"], "CBA"),  # forward again, by name
        (["A", "B", "C", "<", "to 4"], "BA"),  # by way of a rollback
        (["A", "B", "A"], "ABA"),
        (["A", "B", "A", "<"], "BA"),
        (["A", "A", "B", "B"], "BA"),  # as older versions released the same index twice
    ],
)
def test_one_rollback_after_another_goes_back_through_what_was_shown(steps, targets):
    found = rollback_targets(history(*steps))
    assert "".join(release.index_id or "" for release in found) == targets


def test_notes_that_fit_no_release_are_only_notes():
    rows = [Release(2, "model", 1, "B", "rollback from 1 to 9"), Release(1, "model", 1, "A")]
    assert [release.index_id for release in rollback_targets(rows)] == ["B", "A"]
    itself = [Release(1, "model", 1, "A", "rollback from 1 to 1")]
    assert [release.index_id for release in rollback_targets(itself)] == ["A"]


class Models:
    """A registry with aliases and versions."""

    known: ClassVar = {"champion": "aaaaaa11", "candidate": "aaaaaa22", 7: "bbbbbb77"}

    def __init__(self, settings):
        self.settings = settings

    def resolve(self, model):
        if (asked := model.version or model.alias) not in self.known:
            raise RegistryError(f"no {asked}")
        return SimpleNamespace(spec=SimpleNamespace(model_id=self.known[asked]))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("champion", "aaaaaa11"),
        ("candidate", "aaaaaa22"),
        ("7", "bbbbbb77"),
        ("aaaaaa2", "aaaaaa22"),
        ("unregis", "unregistered"),
        ("aaaaaa", "it may be aaaaaa11 or aaaaaa22"),
        ("challenger", "none of that name: no challenger"),
        ("8", "none of that name: no 8"),
        ("bbbb", "at least 6 characters of a model_id; .* are aaaaaa11, aaaaaa22, unregistered"),
    ],
)
def test_a_model_is_named_by_alias_version_or_the_beginning_of_its_id(name, found):
    indexed = [SimpleNamespace(model_id=m) for m in ("aaaaaa11", "aaaaaa22", "unregistered")]
    rows = SimpleNamespace(collect=lambda: indexed)
    frame = SimpleNamespace(select=lambda _: SimpleNamespace(distinct=lambda: rows))
    lake = SimpleNamespace(read=lambda _: frame, name=lambda table: table)
    registry = Models(load_settings(env={}))
    if " " not in found:
        assert releases.model_named(lake, registry, name) == found
    else:
        with pytest.raises(RegistryError, match=found):
            releases.model_named(lake, registry, name)


def test_what_a_vacuum_says_can_be_printed_as_json():
    done = Vacuum(("a",), ("/lake/indexes/a",), 12, marked=("b",), retain_hours=168)
    assert str(done).splitlines() == [
        "1 index(es), 1 folder(s), 12 bytes",
        "  /lake/indexes/a",
        "  marked unused, for removal in 168 hours: b",
    ]
    assert json.loads(json_line(vars(done)))["marked"] == ["b"]
