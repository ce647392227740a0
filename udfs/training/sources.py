"""Open the training and validation data that a spec names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from udfs.drawing.training_rows import DrawnPairs
from udfs.drawing.validation import DrawnEvalSpec, draw_tasks
from udfs.errors import SettingsError
from udfs.files.image_files import read_image
from udfs.gme.prepare import Row, RowPreparer
from udfs.storage import locate
from udfs.strings import python_rows, require_utf8
from udfs.training.data import TablePairs
from udfs.training.pictures import DrawnPictures
from udfs.training.plan import Mixture, TrainingData
from udfs.training.retrieval import Corpus, RetrievalTask
from udfs.training.spec import PairsSpec, TrainSpec

if TYPE_CHECKING:
    from udfs.training.step import Team

Evaluation = tuple[Corpus, list[RetrievalTask]]

# New pictures of trained products: the report's products stay unseen until the report.
_DRAWN_VALIDATION = DrawnEvalSpec(combinations=60, views=3, split="train", seed=1)


def open_source(spec: TrainSpec, preparer: RowPreparer, team: Team) -> TrainingData:
    """The drawn catalogue, the pairs table, or both in turn. Raises SettingsError where neither is given."""
    sources: list[TrainingData] = []
    if spec.drawn:
        pictures = DrawnPictures.open(
            spec.drawn, preparer, rank=team.rank, world=team.world, barrier=team.barrier
        )
        sources.append(
            DrawnPairs(
                spec.drawn,
                preparer,
                pictures=pictures,
                batch=spec.batch,
                seed=spec.seed,
                instructions=spec.instructions,
                hard_negatives=spec.hard_negatives,
                share=spec.share_of_data,
                directions=spec.directions,
            )
        )
    if spec.pairs:
        sources.append(
            TablePairs(
                spec.pairs if spec.hard_negatives else _without_negatives(spec.pairs),
                preparer,
                batch=spec.batch,
                seed=spec.seed,
                instructions=spec.instructions,
                share=spec.share_of_data,
                directions=spec.directions,
            )
        )
    if not sources:
        raise SettingsError("neither drawn pairs nor a pairs table is given to train on")
    if len(sources) == 1:
        return sources[0]
    return Mixture(sources[0], sources[1], share=spec.drawn_share, seed=spec.seed)


def open_validation(spec: TrainSpec) -> Evaluation | None:
    """What a training looks at while it runs: the validation pairs where they are given, else new drawn pictures
    where drawn ones are trained on. Without instructions where the training has none.
    """
    if spec.validation:
        return pairs_tasks(spec.validation, instructions=spec.instructions)
    if not spec.drawn:
        return None
    return draw_tasks(replace(_DRAWN_VALIDATION, instructions=spec.instructions))


def open_report(spec: TrainSpec) -> dict[str, Evaluation]:
    """What the final weights are scored on: `drawn`, the held-out drawn products, and `validation`, the pairs of that
    name; either where the training has it.
    """
    found: dict[str, Evaluation] = {}
    if spec.drawn:
        found["drawn"] = draw_tasks(
            DrawnEvalSpec(instructions=spec.instructions, held_out_seed=spec.drawn.held_out_seed)
        )
    if spec.validation:
        found["validation"] = pairs_tasks(spec.validation, instructions=spec.instructions)
    return found


def pairs_tasks(spec: PairsSpec, *, instructions: bool = True) -> Evaluation:
    """Every query of a pairs file against the positives of all, each content once; one task a direction.

    Right for a query is its own positive, and what other pairs with its positive_id have.
    """
    with pa.memory_map(spec.path) as source:
        pairs = python_rows(pa.ipc.open_file(source).read_all())
    numbers: dict[tuple[object, ...], int] = {}
    rows: list[Row] = []
    ids: list[set[str]] = []
    tasks: dict[str, RetrievalTask] = {}
    for pair in pairs:
        if not instructions:
            pair["instruction"] = None
        content = tuple(pair[f"positive_{name}"] for name in ("text", "image", "image_uri"))
        number = numbers.setdefault(content, len(rows))
        if number == len(rows):
            rows.append(_row(pair, "positive", spec))
            ids.append(set())
        # Not by its content, which may be the bytes of a picture.
        answer = f"id {pair['positive_id']}" if pair["positive_id"] else f"row {number}"
        ids[number].add(answer)
        task = tasks.setdefault(pair["direction"], RetrievalTask(pair["direction"], [], []))
        task.queries.append(_row(pair, "query", spec))
        task.answers.append(answer)
    return Corpus(rows, [frozenset(found) for found in ids]), list(tasks.values())


def _row(pair: dict[str, object], side: str, spec: PairsSpec) -> Row:
    text, image, uri = (pair[f"{side}_{name}"] for name in ("text", "image", "image_uri"))
    if image is None and uri is not None:
        where = locate(spec.image_base, str(uri))
        image = read_image(where, spec=spec.reading)
    is_query = side == "query"
    for name, value in (("text", text), ("instruction", pair["instruction"])):
        require_utf8(value, what=f"{side}'s {name}")  # type: ignore[arg-type]
    return Row(text, image, pair["instruction"] if is_query else None, is_query)  # type: ignore[arg-type]


def _without_negatives(spec: PairsSpec) -> PairsSpec:
    return replace(spec, negatives=0)
