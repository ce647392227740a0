"""What is searched: the index of the current release, and how tasks are to open it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from jobs.lake.indexes import find_index, whole_manifest
from jobs.lake.lake import Lake
from jobs.lake.releases import Release, current_release
from jobs.lake.runs import Run
from jobs.settings.search import SearchSettings
from jobs.stages.index.changes import changes_since, write_gone
from jobs.stages.search.fresh import write_fresh
from jobs.stages.search.rows import restrict
from udfs.errors import IndexDataError, LakeError, SettingsError
from udfs.index.manifest import GONE_NAME, Manifest
from udfs.index.points import point_for
from udfs.specs import SearchOptions, SearchSpec

log = logging.getLogger("gme_lake")

_WAY_OUT = (
    "To search again, go back to another release with gme-lake release rollback, or make a new one with gme-lake "
    "build-index and release promote"
)
STALE_SHARE = 0.2  # of the index; beyond it a rebuild costs less than the searches


@dataclass(frozen=True)
class Target:
    """The current release and its index, where it lies now; `manifest_sha256`: of its manifest as it was committed."""

    release: Release
    manifest: Manifest
    manifest_sha256: str | None = None

    @property
    def model_id(self) -> str:
        """Model of the vectors, which must also embed the queries."""
        return self.manifest.spec.model_id

    @property
    def index_id(self) -> str:
        """The released index."""
        return self.manifest.spec.index_id


def find_target(lake: Lake) -> Target:
    """The index of the current release. Raises LakeError without one, IndexDataError where its files are not whole."""
    release = current_release(lake)
    if release is None:
        raise LakeError(_nothing(lake, "there is no release"))
    return release_target(lake, release)


def release_target(lake: Lake, release: Release) -> Target:
    """The index of a release. Raises as `find_target`."""
    if release.index_id is None:
        raise LakeError(_nothing(lake, f"{release} has no index"))
    row = find_index(lake, release.index_id)
    if row is None:
        raise LakeError(
            f"index {release.index_id} of {release} is not in {lake.name('indexes')}. {_WAY_OUT}"
        )
    try:
        manifest = whole_manifest(lake, row)
    except IndexDataError as error:
        raise IndexDataError(f"{release} cannot be searched: {error}. {_WAY_OUT}") from error
    if manifest.spec.model_id != release.model_id:
        raise IndexDataError(
            f"release {release.release_id} is of model {release.model_id}, but its index {release.index_id} in "
            f"{manifest.spec.root} was built from model {manifest.spec.model_id}; promote another index"
        )
    return Target(release, manifest, str(row.manifest_sha256))


def _nothing(lake: Lake, found: str) -> str:
    return (
        f"nothing to search: {found} in {lake.name('releases')}; build an index (gme-lake build-index), then run "
        "gme-lake release promote"
    )


def search_spec(
    run: Run, settings: SearchSettings, *, target: Target, staging: str, version: int | None = None
) -> SearchSpec:
    """How tasks search the target so that they find what `vectors` holds now, or at a version; files go to the staging
    folder.
    """
    lake, index = run.lake, target.manifest.spec
    spec = SearchSpec(
        root=index.root,
        model_id=index.model_id,
        options=_options(settings, target.manifest),
        manifest_sha256=target.manifest_sha256,
        min_score=settings.min_score,
    )
    version = lake.version("vectors") if version is None else version
    run.inputs.append((lake.name("vectors"), version, "vectors"))
    newest = replace(index, vectors_version=version)
    spec = restrict(run, spec, settings, index=newest, staging=staging)
    if version == index.vectors_version:
        return spec
    changes = changes_since(lake, target.manifest, version=version, folder=f"{staging}/changes")
    run.counts.update({"gone_since_index": changes.gone, "new_since_index": changes.fresh})
    if max(changes.gone, changes.fresh) > STALE_SHARE * target.manifest.rows:
        log.warning(
            "since index %s was built, %d of its %d rows are gone and %d are new; searches would be faster with a "
            "new one (gme-lake build-index)",
            index.index_id,
            changes.gone,
            target.manifest.rows,
            changes.fresh,
        )
    if gone := write_gone(changes, root=staging, name=GONE_NAME):
        spec = replace(spec, gone=f"{staging}/{gone.name}")
    if changes.fresh and settings.freshness == "complete":
        fresh = replace(index, root=f"{staging}/fresh", vectors_version=version)
        spec = replace(spec, fresh_root=write_fresh(lake, changes, spec=fresh))
    return spec


def _options(settings: SearchSettings, manifest: Manifest) -> SearchOptions:
    """nprobe and k_factor of the settings, or of the operating point stored for `search.recall`."""
    if settings.recall is None:
        return SearchOptions(settings.k, settings.nprobe, settings.k_factor)
    if settings.nprobe is not None or settings.k_factor is not None:
        raise SettingsError(
            "search.recall chooses nprobe and k_factor: set either it, or search.nprobe and search.k_factor"
        )
    point = point_for(manifest.points, recall=settings.recall, k=settings.k)
    return SearchOptions(settings.k, point.nprobe, point.k_factor)
