"""Where in a lake, and beside it, an id or its vector may stand: files that are looked into, and what nobody here can
reach.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import functions as F

from jobs.driver.task_errors import is_broken_off
from jobs.lake.indexes import index_folder
from jobs.lake.lake import Lake, absolute, cause, delta_table, read_table
from jobs.lake.source_views import SourceView, plan_views, source_runs
from jobs.lake.sql import identifier, is_path
from jobs.lake.tables import TABLES
from udfs import storage
from udfs.errors import LakeError
from udfs.index.files import cache_folder

log = logging.getLogger("gme_lake")

# Columns of the lake's tables in which ids may stand: as values, or named in a text. In the others words of ours stand,
# which may be somebody's ids as well.
HOLD_IDS = {
    "vectors": ("id", "error"),
    "run_events": ("error", "settings"),
    "evaluated_queries": ("query_id", "first_hits"),
    "gate_decisions": ("checks", "note"),
    "releases": ("note",),
    "recalls": ("segment_value",),
    "synthesis_answers": ("passage_id", "error", "fields", "raw"),
    "synthesis_rejects": ("passage_id", "detail"),
}
# Tables whose rows go with the id in this column: what a model said of a passage is the passage's.
ROWS_OF_IDS = {"synthesis_answers": "passage_id", "synthesis_rejects": "passage_id"}
# What runs were told to write somewhere: results with ids, and pages.
_WRITTEN = (
    "search.output",
    "search.report",
    "duplicates.pairs",
    "duplicates.clusters",
    "duplicates.report",
    "recall.report",
    "evaluate.report",
    "mine.output",
    "synthesize.output",
)
TABLE, INDEX, WORK, EVALUATION, RECALL, CACHE, SOURCE, OUTSIDE, OTHER = (
    "table",
    "index",
    "intermediate files",
    "evaluation",
    "recall",
    "cache",
    "source",
    "outside",
    "other",
)
_FOLDERS = {
    "tables": TABLE,
    "indexes": INDEX,
    "staging": WORK,
    "streams": WORK,
    "evaluation": EVALUATION,
    "recall": RECALL,
}
_SHOWN = 5


@dataclass(frozen=True)
class File:
    """A file to look into. `part` says what it belongs to, `name` which: of a table or index its name, else a folder."""

    path: str
    bytes: int
    part: str
    name: str

    @property
    def columns(self) -> list[str] | None:
        """The columns of a lake table that ids may stand in; None: all, as in every other file."""
        if self.part != TABLE or "/_delta_log/" in self.path or self.name not in _OWN:
            return None
        return list(HOLD_IDS.get(self.name, ()))

    @property
    def same_lake(self) -> bool:
        """Whether vector_ids in it are those of this lake: they are numbers that another lake gives to other rows."""
        return self.part in (TABLE, INDEX, WORK, RECALL, CACHE)


_OWN = {table.name for table in TABLES}


@dataclass(frozen=True)
class Unreachable:
    """What was not looked into, or is not this lake's to change, in words."""

    place: str
    why: str

    def __str__(self) -> str:
        return f"{self.place}: {self.why}"


def list_files(lake: Lake, sources: Iterable[SourceView], *, but: str) -> list[File]:
    """Every file of the lake, of its tables and indexes that lie elsewhere, of this machine's cache, and what runs wrote.

    Without the folder `but`. Of the lake's own part is what lies in a folder of its own; the source table may lie there too.
    """
    of_source = {folder: view.table for view in sources if (folder := _folder(lake, view.table))}
    found: dict[str, File] = {}
    for path, size in storage.files(lake.root).items():
        if not path.startswith(f"{but}/"):
            part, name = _part(lake, path, of_source)
            found[path] = File(path, size, part, name)
    for part, name, folder in _elsewhere(lake):
        for path, size in storage.files(folder).items():
            found.setdefault(path, File(path, size, part, name))
    return list(found.values())


def _folder(lake: Lake, table: str) -> str | None:
    """The folder of a source table with a slash at its end; None where the table is gone."""
    try:
        detail = delta_table(lake.spark, table).detail().select("location").first()
    except LakeError:
        return None
    location = "" if detail is None else str(detail.location)
    return f"{str(storage.local_path(location) or location).rstrip('/')}/"


def _part(lake: Lake, path: str, of_source: Mapping[str, str]) -> tuple[str, str]:
    for folder, table in of_source.items():
        if path.startswith(folder):
            return SOURCE, table
    first, _, rest = path.removeprefix(f"{lake.root}/").partition("/")
    second = rest.partition("/")[0]
    if first not in _FOLDERS:
        return OTHER, first
    named = first in ("tables", "indexes")
    return _FOLDERS[first], second if named else lake.folder(first, second)


def _elsewhere(lake: Lake) -> Iterator[tuple[str, str, str]]:
    """(part, name, folder) of what does not lie under the lake's root."""
    if lake.managed:
        for table in TABLES:
            detail = delta_table(lake.spark, lake.name(table.name)).detail().first()
            if detail is not None:
                yield TABLE, table.name, str(detail.location)
    for row in lake.read("indexes").collect():
        folder = index_folder(lake, row)
        if not lake.holds(folder):
            yield OUTSIDE, folder, folder
    yield CACHE, "", str(cache_folder())
    for place in written_places(lake):
        if place.startswith("/") or "://" in place:
            yield OUTSIDE, place, place


def written_places(lake: Lake) -> list[str]:
    """Paths outside the lake that runs were told to write results and pages to, as they were given."""
    runs = lake.read("run_events")
    given = [F.get_json_object("settings", f"$.{key}") for key in _WRITTEN]
    rows = runs.select(F.explode(F.array(*given)).alias("place")).where("place <> ''")
    places = sorted(row.place for row in rows.distinct().collect())
    return [p for p in places if not lake.holds(absolute(p) if is_path(p) else p)]


def find_sources(lake: Lake) -> list[SourceView]:
    """The source tables that models of the lake were last embedded from."""
    return plan_views(source_runs(lake))


def require_gone_from_sources(
    lake: Lake, sources: Iterable[SourceView], ids: list[str]
) -> list[Unreachable]:
    """Raise LakeError where a source table has one of the ids: the next embed-table would embed it again.

    Returns the sources that cannot be read: nothing can be embedded from them either.
    """
    unread = []
    for view in sources:
        column = F.col(identifier(json.loads(view.settings)["source"]["id"])).cast("string")
        try:
            rows = read_table(lake.spark, view.table).where(column.isin(ids))
            there = sorted({str(row[0]) for row in rows.select(column).collect()})
        except Exception as error:  # gone, changed, unreadable: Spark has a word for each
            if is_broken_off(error):
                raise
            unread.append(Unreachable(view.table, f"the source cannot be read ({cause(error)})"))
            continue
        if there:
            more = f" and {len(there) - _SHOWN:,} more" if len(there) > _SHOWN else ""
            shown = ", ".join(map(repr, there[:_SHOWN]))
            raise LakeError(
                f"{view.table} still has {len(there):,} of the {len(ids):,} ids ({shown}{more}): the next embed-table would "
                "embed them again. Delete their rows from the source table first, then purge; nothing was changed"
            )
    return unread


def name_unreachable(
    lake: Lake, sources: Iterable[SourceView], seen: Iterable[Any]
) -> list[Unreachable]:
    """What a purge leaves to people. `seen` are findings in files that are not the lake's own."""
    counted: dict[str, set[str]] = {}
    for file, found in seen:
        counted.setdefault(file.name, set()).add(found.path)
    named = []
    for view in sources:
        columns = json.loads(view.settings)["embed"]["write_back"] == "columns"
        held = counted.pop(view.table, set())
        told = f"; {len(held):,} of its files in this lake hold an id" if held else ""
        vectors = "rows and the vectors written back into them" if columns else "rows"
        why = f"older versions of the source table have the {vectors} until it is vacuumed{told}"
        named.append(Unreachable(view.table, why))
    for name, paths in sorted(counted.items()):
        why = f"{len(paths):,} file(s) hold an id or its vector and are not the lake's: remove them yourself"
        named.append(Unreachable(name, why))
    for place in written_places(lake):
        if not (place.startswith("/") or "://" in place):
            why = "a run wrote it, by a name or a path that only that run's folder and catalog know"
            named.append(Unreachable(place, why))
    return [
        *named,
        *(Unreachable(place, why) for place, why in _NOT_HERE),
        *([Unreachable("the tables' logs", _MANAGED_LOG)] if lake.managed else []),
    ]


_MANAGED_LOG = (
    "the catalog keeps them; least and greatest ids of files that are gone stand there until "
    "delta.logRetentionDuration has passed"
)
_NOT_HERE = (
    (
        "caches of index files on other machines",
        "in the temp folder of each executor: gme-lake-index-cache-*",
    ),
    (
        "running searches",
        "they keep what they have opened until they end; Spark's shuffle files too",
    ),
    (
        "results and pages written elsewhere",
        "by search --html, or copied; only what recorded runs wrote was looked into",
    ),
    ("MLflow", "artefacts that people logged; runs of this program log no ids"),
    ("models trained on the rows", "what training made of them is in the weights"),
    ("copies and backups of the lake, versions that an object store keeps", "purge them too"),
)
