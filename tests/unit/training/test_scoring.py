"""Scores of the final weights: the encoder's own where it can read the model, and there where it cannot."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.training.conftest import PROFILE
from udfs.drawing import tasks as drawing_tasks
from udfs.gme import Encoder
from udfs.training.loop import train
from udfs.training.retrieval import query_scores
from udfs.training.scoring import read_scores
from udfs.training.sources import open_report, pairs_tasks
from udfs.training.spec import DrawnSpec, ModelOptions

METRICS = {"hit@1", "hit@10", "ndcg@10"}


@pytest.fixture
def scored(train_spec):
    return replace(train_spec, steps=2, validation=train_spec.pairs)


def test_scores_are_those_of_the_written_checkpoint(scored):
    train(scored)
    found = read_scores(scored)
    encoder = Encoder.load(scored.output, profile=PROFILE)
    expected = query_scores(lambda rows: encoder.encode(rows).vectors, *pairs_tasks(scored.pairs))
    assert set(found["values"]) == {"validation/t2i", "validation/i2i"}
    for task, metrics in expected.items():
        assert set(metrics) == METRICS
        for metric, values in metrics.items():
            assert found["values"][f"validation/{task}"][metric] == pytest.approx(values, abs=1e-5)
            score = found["scores"][f"validation/{task}/{metric}"]
            assert score["mean"] == pytest.approx(values.mean(), abs=1e-5)
            assert score["low"] <= score["mean"] <= score["high"]
            assert score["queries"] == len(values) > 10
    assert found["step"] == 2
    assert read_scores(replace(scored, temperature=0.5)) is None
    assert read_scores(replace(scored, validation=replace(scored.pairs, path="other"))) is None
    assert read_scores(replace(scored, work=str(Path(scored.work) / "none"))) is None


@pytest.mark.parametrize("options", [{"pooling": "mean"}, {"attention": "bidirectional"}])
def test_a_model_that_is_no_gme_checkpoint_is_scored_too(scored, options, tmp_path):
    """It learns as itself: the usual model's scores from the same start are others."""
    spec = replace(scored, output="", work=str(tmp_path / "other"), model=ModelOptions(**options))
    train(spec)
    train(scored)
    found, usual = read_scores(spec), read_scores(scored)
    assert found["values"] != usual["values"]
    lines = (Path(spec.work) / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite([json.loads(line)["loss"] for line in lines]).all()


def test_without_held_out_queries_there_are_no_scores(train_spec):
    train(replace(train_spec, steps=1))
    assert not (Path(train_spec.work) / "scores.json").exists()


def test_a_training_without_instructions_is_asked_without(train_spec, monkeypatch):
    monkeypatch.setattr(drawing_tasks, "draw_jpeg", lambda *_, **__: b"drawn elsewhere")
    spec = replace(train_spec, pairs=None, drawn=DrawnSpec(cache=""), validation=train_spec.pairs)
    for instructions in (True, False):
        report = open_report(replace(spec, instructions=instructions))
        assert set(report) == {"drawn", "validation"}
        for _, tasks in report.values():
            told = {q.instruction is not None for task in tasks for q in task.queries}
            assert told == {instructions}
    corpus, _ = report["drawn"]
    assert len(corpus.rows) == 1080
