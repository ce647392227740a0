"""What a model has to beat: chance, computed for every task, and figures of plain methods that a file names."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic

from jobs.settings.conf import conf_yaml
from jobs.stages.evaluate.figures.chance import chance
from jobs.stages.evaluate.figures.measures import parse_metric
from jobs.stages.evaluate.figures.measuring import EmbeddedTasks
from jobs.stages.evaluate.page.shown import RankedTask
from udfs.errors import SettingsError

Floors = dict[str, dict[str, float]]  # task to name to its main metric
KnownFloors = dict[str, dict[str, dict[str, float]]]  # task to metric to name to value


def read_floors(file: str | None) -> KnownFloors:
    """Floors by task, metric and name from the mapping `floors` of a YAML file; {} for None. Raises SettingsError."""
    if file is None:
        return {}
    content = conf_yaml(file)
    try:
        found: KnownFloors = pydantic.TypeAdapter(KnownFloors).validate_python(
            content["floors"] if isinstance(content, dict) else content
        )
        for metrics in found.values():
            for metric in metrics:
                parse_metric(metric)
    except (KeyError, pydantic.ValidationError) as error:
        raise SettingsError(
            f"evaluate.floors={file}: expected `floors:` with task, metric, name and value, e.g. "
            f"`floors: {{photos: {{ndcg@10: {{BM25: 0.87}}}}}}`; {error}"
        ) from None
    return found


def floors_of(
    asked: EmbeddedTasks, measured: Sequence[RankedTask], *, known: KnownFloors
) -> Floors:
    """Floors of every task for its main metric: chance first, then those that are known for this metric.

    Where a query has one relevant document, recall@k and hit@k are the same and either is taken.
    """
    own = _own_rows(asked)
    floors: Floors = {}
    for task in measured:
        name, metric = task.score.name, task.score.metric
        floors[name] = {
            "chance": chance(
                task.judgements,
                metric=metric,
                documents=task.score.documents,
                own=own.get(name),
            )
        }
        of_task = known.get(name, {})
        floors[name] |= of_task.get(metric) or of_task.get(_same_as(task), {})
    return floors


def _same_as(task: RankedTask) -> str:
    """The other name of the metric where every query has one relevant document."""
    name, k = parse_metric(task.score.metric)
    other = {"recall": "hit", "hit": "recall"}.get(name)
    relevant = sum(score > 0 for score in task.judgements["score"].to_pylist())
    single = relevant == len(task.score.scores.query_ids)
    return f"{other}@{k}" if other and single else task.score.metric


def _own_rows(asked: EmbeddedTasks) -> dict[str, dict[str, str]]:
    """Rows that rankings leave out, by task and query."""
    rows = asked.staged.where("self_id IS NOT NULL").select("task", "query_id", "self_id")
    own: dict[str, dict[str, str]] = {}
    for task, query_id, self_id in rows.collect():
        own.setdefault(task, {})[query_id] = self_id
    return own
