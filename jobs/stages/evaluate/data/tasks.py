"""What one retrieval task is: where its data lies, its modalities, instruction and metric; tasks are read from files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
from pydantic.dataclasses import dataclass
from pyspark.sql import DataFrame

from jobs.lake.lake import absolute
from jobs.settings.conf import conf_yaml
from jobs.settings.evaluate import EvaluateSettings
from udfs import storage
from udfs.errors import SettingsError

Modality = Literal["text", "image", "image,text", "page"]
Kind = Literal["single", "cross", "fused"]
_LETTERS: dict[Modality, str] = {"text": "t", "image": "i", "image,text": "it", "page": "vd"}
_TASKS_JSON = "tasks.json"
_MAX_TASK_FILE = 16 << 20


@dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class EvaluationTask:
    """One retrieval task. `page` is a picture of a document page (UMRB's visual documents)."""

    name: str
    layout: Literal["catalogue", "beir", "mbeir", "drawn"]
    query: Modality
    document: Modality
    metric: Annotated[str, pydantic.StringConstraints(pattern=r"^(ndcg|recall|hit|mrr)@[1-9]\d*$")]
    folder: str = ""  # path or URI of the data, in a task file from evaluate.data; drawn has none
    instruction: str | None = None  # of all queries; None: each query's own
    split: str = "test"
    corpus: str | None = None  # which part of the folder, by layout
    document_fields: tuple[str, ...] = ()  # what of a document may be embedded; (): by layout
    drop_self: bool = False  # a query's own row is no result of it
    dataset: str | None = None  # tasks of one dataset are averaged first and count once

    @property
    def pair(self) -> str:
        """Modalities of query and document, e.g. t2i, it2t, t2vd."""
        return f"{_LETTERS[self.query]}2{_LETTERS[self.document]}"

    @property
    def kind(self) -> Kind:
        """UMRB's class: fused where a side is image and text, single where both sides are the same, else cross."""
        if "image,text" in (self.query, self.document):
            return "fused"
        return "single" if self.query == self.document else "cross"

    @property
    def counted_as(self) -> str:
        """What averages over tasks count once, e.g. CQADupStack's twelve forums."""
        return self.dataset or self.name

    @property
    def corpus_key(self) -> tuple[object, ...]:
        """Tasks with the same one search the same documents."""
        part = (self.corpus, self.split)  # a corpus may lie in files by split
        return (self.layout, self.folder, *part, self.document_fields, self.document)


class TaskData(NamedTuple):
    """A task's frames, with the columns DOCUMENTS, QUERIES and JUDGEMENTS of `udfs.drawing.tasks`. Queries are those
    judged in the split.

    `self_id` is the row that a query's ranking leaves out, or null.
    """

    documents: DataFrame
    queries: DataFrame
    judgements: DataFrame


def load_tasks(settings: EvaluateSettings) -> list[EvaluationTask]:
    """The tasks that `evaluate.tasks` names: YAML task files, and folders with a tasks.json, in this order.

    `evaluate.only` keeps the tasks of these names. Raises SettingsError for a file that is missing or says
    something else than tasks, for two tasks of one name, or a name in `only` that no task has.
    """
    if not settings.tasks:
        raise SettingsError(
            "evaluate.tasks is not set: give a task file (YAML, e.g. umrb.yaml) or a folder with a tasks.json"
        )
    found = [task for source in settings.tasks for task in _read(source, settings.data)]
    twice = [name for name, count in Counter(task.name for task in found).items() if count > 1]
    if twice:
        raise SettingsError(
            f"evaluate.tasks names these tasks more than once: {', '.join(sorted(twice))}"
        )
    unknown = set(settings.only) - {task.name for task in found}
    if unknown:
        known = ", ".join(task.name for task in found)
        raise SettingsError(
            f"evaluate.only names {', '.join(sorted(unknown))}; the tasks are {known}"
        )
    kept = [task for task in found if not settings.only or task.name in settings.only]
    return [replace(task, split=settings.split or task.split) for task in kept]


def _read(source: str, data: str) -> list[EvaluationTask]:
    if source.endswith((".yaml", ".yml")):
        content = conf_yaml(source)
        entries = content.get("tasks") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not entries:
            raise SettingsError(f"evaluate.tasks={source}: expected a list `tasks:` in it")
        return [_task(entry, source, data) for entry in entries]
    folder = absolute(source)
    file = storage.join(folder, _TASKS_JSON)
    try:
        entries = json.loads(storage.read_bytes(file, max_bytes=_MAX_TASK_FILE))
        return [_catalogue_task(entry, folder) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"evaluate.tasks={source}: expected a YAML file or a folder with a {_TASKS_JSON} that lists tasks; "
            f"{file}: {type(error).__name__}: {error}"
        ) from None


def _task(entry: Any, source: str, data: str) -> EvaluationTask:
    try:
        task = pydantic.TypeAdapter(EvaluationTask).validate_python(entry)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        name = entry.get("name") if isinstance(entry, dict) else entry
        raise SettingsError(
            f"evaluate.tasks={source}: task {name!r}: {where}: {first['msg']}"
        ) from None
    if task.layout == "drawn" or task.folder.startswith("/") or "://" in task.folder:
        return task
    return replace(task, folder=storage.join(absolute(data), task.folder))


def _catalogue_task(entry: dict[str, Any], folder: str) -> EvaluationTask:
    """An entry of a catalogue folder's tasks.json."""
    metric, _, depth = entry["main_metric"].rpartition("_at_")
    return EvaluationTask(
        name=entry["task"],
        layout="catalogue",
        folder=folder,
        query=entry["query_modality"],
        document=entry["document_modality"],
        metric=f"{metric}@{depth}",
        instruction=entry.get("instruction"),
        corpus=entry["corpus"],
        document_fields=tuple(entry["document_fields"]),
        drop_self=bool(entry.get("drop_image_ref_from_ranking", False)),
    )
