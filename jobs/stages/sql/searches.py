"""What SQL functions search: released indexes with the vectors that the lake holds now, kept open in the driver.

Opening takes Spark jobs, once for each change of the lake; a statement only asks whether there was one, which takes a
look into four folders.
"""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, TypeVar, cast

import pydantic

from jobs.driver.task_slots import needed_by_tasks
from jobs.lake.delta_log import changed_values
from jobs.lake.lake import Lake, newest_commit
from jobs.lake.registry import Registry
from jobs.lake.releases import Release, newest_releases
from jobs.lake.runs import Run
from jobs.lake.sql import require_predicate
from jobs.settings.search import SearchSettings
from jobs.settings.settings import Settings
from jobs.stages.embed.last_source import last_source
from jobs.stages.embed.selection import find_moment
from jobs.stages.index.full_text import fresh_texts
from jobs.stages.search.queries import query_reading
from jobs.stages.search.rows import restrict
from jobs.stages.search.target import Target, release_target, search_spec
from udfs import storage
from udfs.errors import LakeError
from udfs.full_text.hybrid import HybridIndex, open_full_text
from udfs.full_text.text_index import FullText
from udfs.search.answers import QueryAnswer, answer_query
from udfs.search.batches import open_fresh, open_index, restrict_index, search_batch
from udfs.search.index import Index
from udfs.specs import EmbedSpec, IndexSpec, SearchSpec
from udfs.sql.service_client import AskHits, Scope

T = TypeVar("T")
Seen = tuple[tuple[str, ...], tuple[str, ...]]  # newest commits of `indexes` and `vectors`
_STAMP_SECONDS = 3600.0  # so long all tasks of a statement are answered by one state
_KEPT = 2  # states that stay open: the newest release's, and an earlier one's or without fresh rows
_RESTRICTED = 8  # filters and groups that stay in memory, a bit or a number for each row


@dataclass(frozen=True, eq=False)
class Opened:
    """An index with what has changed in `vectors` since it was built, up to the version that `newest` names.

    `restricted` are the same rows under filters and groups that were asked for lately, `texts` their texts once a hybrid
    search has asked for them. `folder` holds the rows that are
    new, and goes when nobody searches this any more.
    """

    release: Release
    newest: IndexSpec
    spec: SearchSpec
    index: Index
    folder: str
    restricted: OrderedDict[Hashable, tuple[SearchSpec, Index]] = field(default_factory=OrderedDict)
    texts: list[FullText] = field(default_factory=list)

    def __post_init__(self) -> None:
        weakref.finalize(self, storage.remove_folder, self.folder)


class Ready(NamedTuple):
    """What `prepare` has found: the newest release, the source table of its model, and what is searched."""

    release: Release
    source: str | None
    opened: Opened


class Searches:
    """What was opened of one lake. Safe to share between threads.

    `prepare`, before a statement runs, does what takes Spark jobs; tasks then find it ready, and never wait for a lock that
    is held over a job, unless they ask for what nobody has prepared: another release, fewer rows, a filter, groups.
    """

    def __init__(self, lake: Lake, settings: Settings) -> None:
        self._lake = lake
        self._settings = settings
        self._registry = Registry(settings)
        self._looking = threading.RLock()  # held over Spark jobs
        self._answering = threading.Lock()  # held for moments
        self._ready: Ready | None = None
        self._releases: tuple[Hashable, list[Release]] | None = None
        self._opened: OrderedDict[tuple[int, str], tuple[Seen, Opened]] = OrderedDict()
        self._models: dict[str, EmbedSpec] = {}
        self._sources: tuple[Hashable, str, str | None] | None = None
        self._answered: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def prepare(self) -> None:
        """Open what the newest release searches.

        Raises LakeError and IndexDataError where there is nothing to search; a statement's tasks are told the same.
        """
        with self._looking:
            try:
                release = self._release(None)
                source = self._look_up_source(release.model_id)
                self._ready = Ready(release, source, self._open(release, self._settings.search))
            except BaseException:
                self._ready = None
                raise

    def model(self, stamp: str, release: int | None) -> EmbedSpec:
        """How a statement's queries are embedded. Raises LakeError without that release, RegistryError without its model."""
        model_id = self._release_of(stamp, release).model_id
        if model_id not in self._models:
            model, settings = self._registry.find(model_id), self._settings
            reading = query_reading(self._lake.spark, settings, "", image_base=None)
            self._models[model_id] = settings.embed.spec(
                model.spec, settings.serving.spec(), reading
            )
        return self._models[model_id]

    def hits(self, asked: AskHits) -> list[QueryAnswer]:
        """The hits of queries, of one release and one state of the lake for all that has the same stamp.

        Raises LakeError for a scope that cannot be and for columns of another source than the release's, IndexDataError
        for vectors of another dimension.
        """
        opened, spec, index = self._within(asked)
        if asked.model_id is not None and asked.model_id != spec.model_id:
            raise LakeError(
                f"the query is of model {asked.model_id} but the release is of {spec.model_id}"
            )
        if asked.words is not None:
            hybrid = HybridIndex(index, self._texts(opened))
            words = asked.words
            return hybrid.answer(asked.queries, words.texts, spec, rrf_k=words.rrf_k)
        return [answer_query(found, spec) for found in search_batch(index, asked.queries, spec)]

    def _texts(self, opened: Opened) -> tuple[FullText, ...]:
        """The texts of what is searched: those of the index, and, by a job, of the rows that are new."""
        spec, fresh = opened.spec, opened.index.fresh
        with self._looking:
            if not opened.texts:
                texts = open_full_text(spec.root, manifest_sha256=spec.manifest_sha256)
                if fresh is not None:
                    with needed_by_tasks(what="reading the texts of new rows"):
                        run = Run(self._lake, "sql", "{}")
                        texts += (fresh_texts(run, fresh, model_id=spec.model_id),)
                opened.texts.extend(texts)
            return tuple(opened.texts)

    def _within(self, asked: AskHits) -> tuple[Opened, SearchSpec, Index]:
        settings = _searched(self._settings.search, asked.scope)
        release = self._release_of(asked.stamp, asked.scope.release)
        if asked.source is not None:
            self._require_source(asked.source, release)
        opened = self._opened_for(asked.stamp, release, settings)
        spec, index = opened.spec, opened.index
        if settings.filter is not None or settings.group_by is not None:
            spec, index = self._restrict(opened, settings, stamp=asked.stamp)
        return opened, replace(spec, min_score=settings.min_score), index

    def _release_of(self, stamp: str, number: int | None) -> Release:
        """The release of a statement, the same whenever one of its tasks asks."""

        def look() -> Release:
            ready = self._ready if number is None else None
            return self._release(number) if ready is None else ready.release

        return self._once((stamp, number), look)

    def _opened_for(self, stamp: str, release: Release, settings: SearchSettings) -> Opened:
        """What all tasks of a statement search."""

        def look() -> Opened:
            ready = self._ready
            usual = settings.freshness == self._settings.search.freshness
            if ready is None or ready.release != release or not usual:
                return self._open(release, settings)
            return ready.opened

        return self._once((stamp, release.release_id, settings.freshness), look)

    def _once(self, asked: Hashable, look: Callable[[], T]) -> T:
        """What was found when this was first asked; forgotten after STAMP_SECONDS."""
        with self._answering:
            if asked in self._answered:
                return cast("T", self._answered[asked][1])
        found, now = look(), time.monotonic()
        with self._answering:
            while self._answered and next(iter(self._answered.values()))[0] < now - _STAMP_SECONDS:
                self._answered.popitem(last=False)
            return cast("T", self._answered.setdefault(asked, (now, found))[1])

    def _release(self, number: int | None) -> Release:
        with self._looking:
            seen = self._lake.newest_commit("releases")
            if self._releases is None or self._releases[0] != seen:
                with needed_by_tasks(what="reading what is released"):
                    self._releases = seen, newest_releases(self._lake, limit=None)
            releases = self._releases[1]
        found = releases if number is None else [r for r in releases if r.release_id == number]
        if found:
            return found[0]
        if releases:
            ids = ", ".join(str(r.release_id) for r in releases[:10])
            raise LakeError(f"there is no release {number}; the newest are {ids}")
        raise LakeError(
            "nothing is released; run gme-lake build-index and gme-lake release promote"
        )

    def _open(self, release: Release, settings: SearchSettings) -> Opened:
        """The release's index as the lake is now; opened again only where the lake has changed."""
        lake, asked = self._lake, (release.release_id, settings.freshness)
        with self._looking:
            seen = lake.newest_commit("indexes"), lake.newest_commit("vectors")
            before, opened = self._opened.get(asked, (None, None))
            same = before == seen or (before and self._is_of_others(before, seen, release))
            if opened is None or not same:
                with needed_by_tasks(what="opening the index after a change of the lake"):
                    opened = self._open_target(release_target(lake, release), settings)
            # Those that are put out stay while a statement searches them.
            self._opened[asked] = seen, opened
            self._opened.move_to_end(asked)
            while len(self._opened) > _KEPT:
                self._opened.popitem(last=False)
            return opened

    def _is_of_others(self, before: Seen, now: Seen, release: Release) -> bool:
        """Whether all that has changed since are other models' vectors, as while a new model's are made."""
        lake = self._lake
        (indexes, vectors), (indexes_now, vectors_now) = before, now
        if lake.managed or indexes != indexes_now or not vectors or not vectors_now:
            return False
        table = lake.folder("tables", "vectors")
        changed = changed_values(table, column="model_id", after=vectors[0], until=vectors_now[0])
        return changed is not None and release.model_id not in changed

    def _open_target(self, target: Target, settings: SearchSettings) -> Opened:
        lake = self._lake
        version = lake.version("vectors")
        folder = lake.folder("staging", _folder_name())
        run = Run(lake, "sql", "{}")  # reads alone, and is not recorded
        plain = settings.model_copy(update={"filter": None, "group_by": None})
        spec = search_spec(run, plain, target=target, staging=folder, version=version)
        base = open_index(spec.root, model_id=spec.model_id, manifest_sha256=spec.manifest_sha256)
        newest = replace(target.manifest.spec, vectors_version=version)
        index = restrict_index(base, spec, fresh=open_fresh(spec))
        return Opened(target.release, newest, spec, index, folder)

    def _restrict(
        self, opened: Opened, settings: SearchSettings, *, stamp: str
    ) -> tuple[SearchSpec, Index]:
        """Under a filter or groups, evaluated over the newest version of the source; by a job the first time alone, or of
        every statement where the filter is of its moment.
        """
        moment = None
        if settings.filter is not None:
            require_predicate(settings.filter)
            moment = stamp if find_moment(settings.filter) else None
        source = self._source_of(opened.release)
        seen = None if source is None else newest_commit(self._lake.spark, source)
        asked = (settings.filter, settings.group_by, settings.max_per, seen, moment)
        found = opened.restricted.get(asked)
        if found is None:
            with self._looking:
                found = opened.restricted.get(asked) or self._evaluate(opened, settings)
                opened.restricted[asked] = found
                while len(opened.restricted) > _RESTRICTED:
                    opened.restricted.popitem(last=False)
        return found

    def _evaluate(self, opened: Opened, settings: SearchSettings) -> tuple[SearchSpec, Index]:
        run = Run(self._lake, "sql", "{}")
        with self._lake.staging(_folder_name()) as staging:
            with needed_by_tasks(what="a filter, or the groups of rows,"):
                spec = restrict(run, opened.spec, settings, index=opened.newest, staging=staging)
            return spec, restrict_index(opened.index, spec, fresh=opened.index.fresh)

    def _require_source(self, shown: str, release: Release) -> None:
        source = self._source_of(release)
        if source != shown:
            raise LakeError(
                f"the released model's rows are of {source or 'a table that no run tells'}, and this session shows the "
                f"columns of {shown}; open the lake again"
            )

    def _source_of(self, release: Release) -> str | None:
        ready = self._ready
        if ready is not None and ready.release.model_id == release.model_id:
            return ready.source
        return self._look_up_source(release.model_id)

    def _look_up_source(self, model_id: str) -> str | None:
        """The source table of a model, read again where a run has begun or ended since."""
        with self._looking:
            seen = self._lake.newest_commit("run_events")
            if self._sources is None or self._sources[:2] != (seen, model_id):
                with needed_by_tasks(what="finding the source table"):
                    source = last_source(self._lake, model_id=model_id)
                self._sources = seen, model_id, None if source is None else source.table
            return self._sources[2]


def _folder_name() -> str:
    """Of a folder in `staging`, which no run's can be."""
    return f"sql-{uuid.uuid4().hex[:16]}"


def _searched(settings: SearchSettings, scope: Scope) -> SearchSettings:
    """The session's settings with what a call asks for instead. Raises LakeError for a value that they cannot have."""
    of_search = {name: value for name, value in asdict(scope).items() if name != "release"}
    given = {name: value for name, value in of_search.items() if value is not None}
    try:
        return SearchSettings.model_validate({**settings.model_dump(), **given})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise LakeError(f"{name} {first['msg'].lower()}; got {first['input']!r}") from None
