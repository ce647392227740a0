"""Scores of a training's final weights on held-out queries, as the training process itself computes them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from udfs.training.retrieval import Encode, mean_scores, query_scores
from udfs.training.sources import open_report
from udfs.training.spec import TrainSpec, spec_key

FILE = "scores.json"  # in the work folder


def write_scores(encode: Encode, spec: TrainSpec, *, step: int, seconds: float) -> None:
    """Write `scores.json` where the training has held-out queries (`open_report`).

    A model that no checkpoint of GME's layout can describe (other pooling or attention) is judged here or nowhere.
    `scores`: `drawn|validation/task/metric` (and `…/task/group/metric`) to mean, 95 % interval and queries; `values`:
    `drawn|validation/task` to metric to the score of every query, so that two trainings can be compared in pairs.
    """
    scores: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, (corpus, tasks) in open_report(spec).items():
        of_queries = query_scores(encode, corpus, tasks)
        for score_name, score in mean_scores(of_queries, tasks).items():
            scores[f"{name}/{score_name}"] = asdict(score)
        for task, metrics in of_queries.items():
            values[f"{name}/{task}"] = {m: v.round(6).tolist() for m, v in metrics.items()}
    if not scores:
        return
    head = {"key": scores_key(spec), "step": step, "seconds": round(seconds, 1)}
    file = Path(spec.work) / FILE
    partial = file.with_suffix(".part")
    text = json.dumps({**head, "scores": scores, "values": values})
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(file)


def read_scores(spec: TrainSpec) -> dict[str, Any] | None:
    """The scores of this training in its work folder; None where it has not ended, or had other settings or queries."""
    file = Path(spec.work) / FILE
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content if content["key"] == scores_key(spec) else None


def scores_key(spec: TrainSpec) -> str:
    """A hash of all that the scores depend on: what changes the steps, and the pairs that are searched."""
    return hashlib.sha256(f"{spec_key(spec)}/{spec.validation}".encode()).hexdigest()[:16]
