"""How well a checkpoint finds held-out products of the drawn catalogue: `python -m udfs.training.drawn_eval FOLDER`."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from udfs.bootstrap import Score
from udfs.drawing import Combination, draw_jpeg, held_out
from udfs.drawing.splits import HELD_OUT_SEED
from udfs.drawing.words import change_text, query_text
from udfs.gme import Encoder, Row
from udfs.specs import ModelProfile
from udfs.training.drawn import ATTRIBUTES, INSTRUCTIONS, VALUES, Attribute
from udfs.training.pictures import SIZE, train_combinations
from udfs.training.retrieval import Corpus, RetrievalTask, Vectors, evaluate
from udfs.training.spec import DrawnSpec

_TEXTS = 2  # queries a combination


@dataclass(frozen=True)
class DrawnEvalSpec:
    """Pictures that no training has seen. Default: 1,080 candidates, 360 + 180 + 540 queries of held-out products.

    `split`: held_out for what is reported; train for what looks into a training while it runs, so that no choice
    made by it has seen a product of the report.
    """

    combinations: int = 180  # of the split
    views: int = 6  # candidates of each
    neighbours: bool = False  # also a new view of each trained combination: near misses
    instructions: bool = True
    split: Literal["held_out", "train"] = "held_out"
    seed: int = 0
    held_out_seed: int = HELD_OUT_SEED


def drawn_tasks(spec: DrawnEvalSpec) -> tuple[Corpus, list[RetrievalTask]]:
    """Text to image, image to image, and (image + change text) to image, whose source is drawn anew and may be trained."""
    trained = train_combinations(DrawnSpec(cache="", held_out_seed=spec.held_out_seed))
    known = trained if spec.split == "train" else sorted(held_out(seed=spec.held_out_seed))
    chosen = random.Random(f"eval/{spec.seed}").sample(known, len(known))[: spec.combinations]
    rows = [(c, f"corpus/{view}") for c in chosen for view in range(spec.views)]
    if spec.neighbours:
        rows += [(c, "corpus/0") for c in trained if c not in chosen]
    corpus = Corpus(
        [Row(image=_jpeg(c, name, spec)) for c, name in rows], [_id(c) for c, _ in rows]
    )
    return corpus, [_texts(chosen, spec), _images(chosen, spec), _composed(chosen, spec)]


def evaluate_drawn(encoder: Encoder, spec: DrawnEvalSpec) -> dict[str, Score]:
    """Scores `t2i|i2i|it2i/hit@1|hit@10|ndcg@10`, composed ones also by the changed attribute."""
    corpus, tasks = drawn_tasks(spec)
    return evaluate(lambda rows: _encode(encoder, rows), corpus, tasks)


def _encode(encoder: Encoder, rows: list[Row]) -> Vectors:
    encoded = encoder.encode(rows)
    bad = [error for error in encoded.errors if error]
    if bad:
        raise ValueError(f"{len(bad)} of {len(rows)} rows could not be embedded: {bad[0]}")
    return encoded.vectors


def _texts(chosen: list[Combination], spec: DrawnEvalSpec) -> RetrievalTask:
    rng = random.Random(f"eval/{spec.seed}/texts")
    asked = [c for c in chosen for _ in range(_TEXTS)]
    rows = [_query("t2i", spec, text=query_text(*c, rng=rng)) for c in asked]
    return RetrievalTask("t2i", rows, [_id(c) for c in asked])


def _images(chosen: list[Combination], spec: DrawnEvalSpec) -> RetrievalTask:
    rows = [_query("i2i", spec, image=_jpeg(c, "query", spec)) for c in chosen]
    return RetrievalTask("i2i", rows, [_id(c) for c in chosen])


def _composed(chosen: list[Combination], spec: DrawnEvalSpec) -> RetrievalTask:
    rng = random.Random(f"eval/{spec.seed}/changes")
    rows: list[Row] = []
    answers: list[str] = []
    groups: list[str] = []
    for target in chosen:
        for attribute in ATTRIBUTES:
            value = getattr(target, attribute)
            source = rng.choice(_sources(target, attribute, spec))
            text = change_text(attribute, value, rng=rng)
            image = _jpeg(source, f"source/{_id(target)}", spec)
            rows.append(_query("it2i", spec, text=text, image=image))
            answers.append(_id(target))
            groups.append(attribute)
    return RetrievalTask("it2i", rows, answers, groups)


def _sources(target: Combination, attribute: Attribute, spec: DrawnEvalSpec) -> list[Combination]:
    """What `target` may be before the change; a query of the train split shows nothing of the report."""
    kept_out = held_out(seed=spec.held_out_seed) if spec.split == "train" else frozenset()
    others = (target._replace(**{attribute: value}) for value in VALUES[attribute])
    return [other for other in others if other != target and other not in kept_out]


def _query(
    direction: str, spec: DrawnEvalSpec, *, text: str | None = None, image: bytes | None = None
) -> Row:
    return Row(text, image, INSTRUCTIONS[direction] if spec.instructions else None, True)


def _jpeg(combination: Combination, name: str, spec: DrawnEvalSpec) -> bytes:
    return draw_jpeg(*combination, seed=f"eval/{spec.seed}/{name}", size=SIZE)


def _id(combination: Combination) -> str:
    return "/".join(combination)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the scores of a checkpoint folder as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("--image-tokens", type=int, default=16)
    parser.add_argument("--neighbours", action="store_true")
    parser.add_argument("--no-instructions", action="store_true")
    args = parser.parse_args(argv)
    tokens = args.image_tokens
    profile = ModelProfile(name="tiny", min_image_tokens=tokens, max_image_tokens=tokens)
    spec = DrawnEvalSpec(neighbours=args.neighbours, instructions=not args.no_instructions)
    scores = evaluate_drawn(Encoder.load(args.checkpoint, profile=profile), spec)
    rounded = {name: {k: round(v, 4) for k, v in asdict(s).items()} for name, s in scores.items()}
    args.output.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
