"""What the tasks of a statement find: what was prepared for it, the same for all of them, without a job of their own."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from types import SimpleNamespace

import pytest

from jobs.lake.releases import Release
from jobs.settings.settings import Settings
from jobs.stages.sql import searches as module
from jobs.stages.sql.searches import Opened, Ready, Searches
from udfs.errors import LakeError
from udfs.sql.service_client import AskHits, Scope


class Watched(Searches):
    """Notes what it opens and looks up; each opening is another one."""

    def __init__(self, monkeypatch) -> None:
        monkeypatch.setattr(module, "Registry", lambda _: None)
        super().__init__(SimpleNamespace(managed=True), Settings())
        self.newest = Release(1, "m1", 1, "i1")
        self.table: str | None = "products"
        self.did: list[object] = []
        self.numbers = itertools.count()

    def _release(self, number):
        self.did.append(("release", number))
        if self.newest is None:
            raise LakeError("nothing is released")
        return Release(number, "m0", 1, "i0") if number else self.newest

    def _open(self, release, settings):
        self.did.append(("open", release.release_id, settings.freshness))
        opened = object.__new__(Opened)
        spec, index = module.SearchSpec("r", release.model_id, None), f"index {next(self.numbers)}"
        values = {"release": release, "spec": spec, "index": index, "restricted": OrderedDict()}
        for name, value in values.items():
            object.__setattr__(opened, name, value)
        return opened

    def _look_up_source(self, model_id):
        self.did.append(("source", model_id))
        return self.table

    def index(self, stamp, scope=None, source=None):
        asked = AskHits(stamp, scope or Scope(), None, None, source)
        return self._within(asked)[2]


@pytest.fixture
def searches(monkeypatch):
    return Watched(monkeypatch)


def test_tasks_use_what_was_prepared_and_all_of_a_statement_the_same(searches):
    searches.prepare()
    first = searches.index("1", source="products")
    did = list(searches.did)
    searches.newest = Release(2, "m2", 1, "i2")
    searches.prepare()
    assert searches.index("1") == first and searches.index("2") != first
    assert searches.did[len(did) :] == [
        ("release", None),
        ("source", "m2"),
        ("open", 2, "complete"),
    ]
    with pytest.raises(
        LakeError, match="rows are of products, and this session shows the columns of other"
    ):
        searches.index("3", source="other")


def test_what_nobody_has_prepared_is_looked_for(searches):
    searches.prepare()
    searches.did.clear()
    old = searches.index("1", Scope(release=7))
    assert searches.index("1", Scope(release=7)) == old
    fewer = searches.index("1", Scope(freshness="indexed_only"))
    assert len({old, fewer, searches.index("1")}) == 3
    assert searches.did == [("release", 7), ("open", 7, "complete"), ("open", 1, "indexed_only")]
    searches.index("2", Scope(release=7), source="products")
    assert ("source", "m0") in searches.did


def test_a_statement_after_a_refusal_is_told_the_same_and_one_after_it_finds_the_release(searches):
    newest, searches.newest = searches.newest, None
    with pytest.raises(LakeError, match="nothing is released"):
        searches.prepare()
    with pytest.raises(LakeError, match="nothing is released"):
        searches.index("1")
    searches.newest = newest
    assert searches.index("1") == searches.index("1")
    searches.prepare()
    assert isinstance(searches._ready, Ready)
    searches.newest = None
    with pytest.raises(LakeError):
        searches.prepare()
    with pytest.raises(LakeError):
        searches.index("2")


def test_what_statements_were_answered_is_forgotten_after_an_hour(searches, monkeypatch):
    searches.prepare()
    clock = iter((0.0, 10.0, 3601.0, 3620.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    searches._once("a", lambda: 1)
    searches._once("b", lambda: 2)
    searches._once("c", lambda: 3)
    assert list(searches._answered) == ["b", "c"]
    assert searches._once("b", lambda: 4) == 2 and searches._once("a", lambda: 5) == 5


def test_a_value_that_a_setting_cannot_have_is_refused(searches):
    with pytest.raises(
        LakeError, match=r"min_score input should be less than or equal to 1; got 3"
    ):
        searches.index("1", Scope(min_score=3.0))
    with pytest.raises(LakeError, match=r"freshness .*'complete' or 'indexed_only'; got 'now'"):
        searches.index("1", Scope(freshness="now"))
