"""measure_recall from start to end: queries, exact results, timed searches, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.lake.indexes import read_manifest, require_index, require_of_vectors
from jobs.lake.lake import Lake
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.releases import newest_index
from jobs.lake.runs import Run
from jobs.settings.index import RecallSettings
from jobs.settings.settings import Settings
from jobs.stages.recall.exact import exact_results
from jobs.stages.recall.queries import AskedQueries, write_queries
from jobs.stages.recall.record import append_recalls, metrics_of, require_plots, write_report
from jobs.stages.recall.summary import Group, PointFigures, figures, groups_of
from jobs.stages.recall.timed_search import Measurable, measure
from udfs.index.points import Point
from udfs.specs import IndexPlan, IndexSpec


@dataclass(frozen=True)
class RecallReport:
    """What a run of measure_recall came to; `files` were written for people."""

    spec: IndexSpec
    asked: AskedQueries
    figures: tuple[PointFigures, ...]
    files: tuple[Path, ...]

    def at(self, group: Group, point: Point) -> PointFigures:
        """The figures of one group at one point."""
        return next(f for f in self.figures if f.group == group and f.measured.point == point)

    @property
    def own(self) -> tuple[PointFigures, ...]:
        """Every group at the index's own point, or at the widest where that was not measured."""
        points = list(dict.fromkeys(one.measured.point for one in self.figures))
        own = _own_point(self.spec.plan, points)
        return tuple(one for one in self.figures if one.measured.point == own)

    def __str__(self) -> str:
        asked, spec = self.asked, self.spec
        refused = f", {asked.refused} refused" if asked.refused else ""
        lines = [
            f"index {spec.index_id} ({spec.plan.factory}), version {spec.vectors_version} of vectors, "
            f"{len(asked.query_ids):,} queries ({asked.origin.replace('_', '-')}{refused})"
        ]
        for one in self.figures:
            point = one.measured.point
            lines.append(
                f"  {one.group!s:16} nprobe {point.nprobe:5} k_factor {point.k_factor:3}  {one.recall}; "
                f"1@{one.recall.k} {one.first.value:.4f}; {one.ms_median:.3f} ms, p95 {one.ms_p95:.3f}"
            )
        return "\n".join(lines)

    def values(self) -> dict[str, object]:
        """The same for programs."""
        spec, asked = self.spec, self.asked
        return {
            "index_id": spec.index_id,
            "model_id": spec.model_id,
            "vectors_version": spec.vectors_version,
            "factory": spec.plan.factory,
            "origin": asked.origin,
            "queries": len(asked.query_ids),
            "refused": asked.refused,
            "figures": [one.row() | {"k": one.recall.k} for one in self.figures],
            "files": self.files,
        }


def index_to_measure(
    lake: Lake, registry: Registry, *, index_id: str | None
) -> tuple[IndexSpec, ResolvedModel]:
    """The index named, or the one of the registered model built last, and its model.

    Raises LakeError, RegistryError or IndexDataError where there is none.
    """
    if index_id is None:
        model = registry.resolve()
        return open_spec(lake, newest_index(lake, model_id=model.spec.model_id)), model
    spec = open_spec(lake, index_id)
    return spec, registry.find(spec.model_id)


def open_spec(lake: Lake, index_id: str) -> IndexSpec:
    """A committed index, where it lies now. Raises LakeError or IndexDataError."""
    row = require_index(lake, index_id)
    require_of_vectors(lake, row)
    return read_manifest(lake, row).spec


def measure_recall(
    lake: Lake, run: Run, *, spec: IndexSpec, model: ResolvedModel, settings: Settings
) -> RecallReport:
    """Measure an index with the queries of section `recall`, against exact search over the version it was built from.

    Appends to `recalls`. Raises LakeError for queries that cannot be used, IndexDataError for a damaged index.
    """
    recall = settings.recall
    require_plots(recall.report)
    run.model = model
    run.tags["index_id"] = spec.index_id
    run.inputs.append((lake.name("vectors"), spec.vectors_version, "vectors"))
    run.begin()
    with run.stage("queries"):
        asked = write_queries(lake, run, spec=spec, model=model, settings=settings)
    run.counts.update({"queries": len(asked.query_ids), "queries_refused": asked.refused})
    key = exact_results(lake, run, spec=spec, asked=asked, k=recall.k)
    points = points_to_measure(spec.plan, recall)
    with run.stage("measure"):
        committed = str(require_index(lake, spec.index_id).manifest_sha256)
        index = Measurable(spec.root, committed)
        measured = measure(lake, index, asked=asked, key=key, points=points)
    found = tuple(figures(measured, groups_of(asked), k=recall.k))
    append_recalls(run, found, spec=spec, asked=asked, part="all")
    run.metrics |= metrics_of(found, _own_point(spec.plan, points))
    files: tuple[Path, ...] = ()
    if recall.report is not None:
        facts = _facts(spec, asked, model)
        title = f"Recall of index {spec.index_id}"
        files = write_report(recall.report, found, title=title, facts=facts)
    return RecallReport(spec, asked, found, files)


def points_to_measure(plan: IndexPlan, settings: RecallSettings) -> tuple[Point, ...]:
    """The points of the settings, or those around the index's own; k_factor 1 is the recall before re-ranking."""
    limit = max(1, plan.nlist)
    around = (plan.nprobe // 4, plan.nprobe // 2, plan.nprobe, 2 * plan.nprobe, 4 * plan.nprobe)
    nprobes = settings.nprobe or around
    factors: Sequence[int] = (1,)
    if plan.refine != "none":
        factors = (1, *(settings.k_factor or (max(1, plan.k_factor // 2), plan.k_factor)))
    wanted = {(min(max(1, n), limit), factor) for n in nprobes for factor in factors}
    return tuple(Point(*pair) for pair in sorted(wanted))


def _own_point(plan: IndexPlan, points: Sequence[Point]) -> Point:
    """The index's own point, or the widest where that was not measured."""
    own = Point(min(plan.nprobe, max(1, plan.nlist)), plan.k_factor)
    return own if own in points else points[-1]


def _facts(spec: IndexSpec, asked: AskedQueries, model: ResolvedModel) -> dict[str, str]:
    note = "\nheld-out rows are in the quantizer's training" if asked.origin == "held_out" else ""
    return {
        "model": f"{model.name} version {model.version}\n{spec.model_id}",
        "index": f"{spec.index_id}\n{spec.plan.factory}, {spec.plan.shards} shard(s)",
        "version of vectors": str(spec.vectors_version),
        "queries": f"{len(asked.query_ids):,} ({asked.origin.replace('_', '-')}){note}",
        "refused": str(asked.refused),
        "query set": asked.query_set,
        "its own point": f"nprobe {spec.plan.nprobe}, k_factor {spec.plan.k_factor}",
        "intervals": "95 %, bootstrap over queries",
    }
