"""Adding to a whole index instead of building another: new rows go through its quantizer, rows that are gone are named."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from jobs.lake.indexes import index_folder, quantizer_loss, whole_manifest
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.settings.index import IndexSettings
from jobs.stages.index.build import build_shards, check_shards
from jobs.stages.index.changes import Changes, changes_since, write_gone
from jobs.stages.index.full_text import add_full_text
from jobs.stages.index.vectors import indexed_vectors
from udfs.errors import IndexDataError
from udfs.index.build import ShardsSpec
from udfs.index.manifest import GONE_NAME, Base, Manifest
from udfs.search.check import CheckSpec
from udfs.specs import IndexSpec

log = logging.getLogger("gme_lake")

MAX_SHARE = 0.2  # of the base's rows, new or gone; beyond it searches pay more than a build costs
MAX_ERROR = 1.2  # of new rows, in errors of the rows that the quantizer was trained on
_AGAIN = "index %s is not added to, but built again: %s"
_SHAPE = ("factory", "metric", "nlist", "shards", "refine", "seed")
_SHAPE_SETTINGS = ("factory", "nlist", "shards", "refine", "train_rows")


@dataclass(frozen=True)
class Extension:
    """The whole index to add to, `manifest.spec.root` where it lies, and how many rows are new and gone since."""

    base: Manifest
    fresh: int
    gone: int

    def __str__(self) -> str:
        spec = self.base.spec
        return f"{self.fresh:,} new rows and {self.gone:,} gone are added to index {spec.index_id}"

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {"index_id": self.base.spec.index_id, "fresh": self.fresh, "gone": self.gone}


def newest_base(
    lake: Lake, indexes: Iterable[Any], spec: IndexSpec, *, settings: IndexSettings
) -> Manifest | None:
    """The newest whole index that rows may be added to, of the model's rows of `indexes`; None: there is none.

    It has the shape of `spec`, or one that tune-index chose where the settings ask for none, and all its files in this
    lake: what is added looks for them beside itself.
    """
    if not settings.extend:
        return None
    wanted = asdict(spec.plan)
    any_shape = all(getattr(settings, name) is None for name in _SHAPE_SETTINGS)
    older = [row for row in indexes if row.vectors_version < spec.vectors_version]
    for row in sorted(older, key=lambda row: (row.vectors_version, row.built_at), reverse=True):
        params = json.loads(row.params)
        tuned = any_shape and params["points"]
        fits = tuned or all(params[name] == wanted[name] for name in _SHAPE)
        fits = fits and params.get("full_text", False) == spec.plan.full_text
        if params.get("base") is None and fits:
            return _readable(lake, row)
    return None


def _readable(lake: Lake, row: Any) -> Manifest | None:
    """The manifest of an index that can be added to: only those with inverted lists know an error."""
    if index_folder(lake, row) != lake.folder("indexes", row.index_id):
        log.warning(_AGAIN, row.index_id, f"its files lie outside the lake, in {row.root}")
        return None
    try:
        manifest = whole_manifest(lake, row)
    except IndexDataError as error:
        log.warning(_AGAIN, row.index_id, error)
        return None
    return None if manifest.error is None else manifest


def extension_of(lake: Lake, base: Manifest, *, version: int) -> Extension | None:
    """What is to be added for `version` of `vectors`; None, with the reason logged, where a whole build is better."""
    with lake.staging(f"plan-{uuid.uuid4().hex}") as folder:
        try:
            changes = changes_since(lake, base, version=version, folder=folder)
            reason = _too_many(changes, base) or _tell_drift(lake, changes, base, version=version)
        except IndexDataError as error:  # files of the base: a whole build needs none of them
            log.warning(_AGAIN, base.spec.index_id, error)
            return None
    if reason:
        log.info(_AGAIN, base.spec.index_id, reason)
        if base.points:
            log.warning(
                "index %s was tuned; the new one has the shape of the settings and no operating points: run "
                "gme-lake tune-index for one that has",
                base.spec.index_id,
            )
        return None
    return Extension(base, changes.fresh, changes.gone)


def extend_index(
    lake: Lake, run: Run, spec: IndexSpec, extension: Extension
) -> tuple[Manifest, tuple[int, ...]]:
    """Build and check the files of an index that adds to another, as `build_whole` does for a whole one."""
    base = extension.base
    build = ShardsSpec(spec, base.quantizer, base.spec.root)
    with lake.staging(run.run_id) as staging:
        with run.stage("changes"):
            changes = changes_since(
                lake, base, version=spec.vectors_version, folder=f"{staging}/changes"
            )
            gone = write_gone(changes, root=spec.root, name=GONE_NAME)
        fresh = changes.new_of(indexed_vectors(lake, spec))
        with run.stage("build shards"):
            shards, kept = build_shards(fresh, run, build, rows=changes.fresh)
        shards = add_full_text(run, spec, fresh, shards)
        with run.stage("check"):
            run.counts["checked"] += check_shards(fresh, CheckSpec(build, shards))
    run.counts.update({"added": changes.fresh, "gone": changes.gone})
    # Operating points say how the quantizer's codes have to be searched, and it is the same.
    manifest = Manifest(
        spec,
        base.quantizer,
        shards,
        points=base.points,
        error=base.error,
        base=Base(base.spec.index_id, base.shards, gone),
    )
    return manifest, tuple(kept)


def _too_many(changes: Changes, base: Manifest) -> str | None:
    for rows, what in ((changes.fresh, "new"), (changes.gone, "gone")):
        if rows > MAX_SHARE * base.rows:
            return f"{rows:,} rows are {what} since, more than {MAX_SHARE:.0%} of its {base.rows:,}"
    return None


def _tell_drift(lake: Lake, changes: Changes, base: Manifest, *, version: int) -> str | None:
    """Why new rows are too unlike those that the quantizer was trained on; None: they are not."""
    if not changes.fresh or base.error is None:
        return None
    spec = replace(base.spec, vectors_version=version)
    error = quantizer_loss(base, changes.new_of(indexed_vectors(lake, spec)))
    if error <= MAX_ERROR * base.error:
        return None
    return (
        f"its quantizer loses {error:.4g} of a new row's squared length and {base.error:.4g} of those it was "
        f"trained on, more than {MAX_ERROR:g} times as much"
    )
