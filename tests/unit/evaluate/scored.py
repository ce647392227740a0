"""Made-up scores of tasks."""

import numpy as np

from jobs.stages.evaluate.data.tasks import EvaluationTask
from jobs.stages.evaluate.figures.measures import QueryScores
from jobs.stages.evaluate.figures.summary import TaskScore

LETTERS = {"t": "text", "i": "image", "it": "image,text", "vd": "page"}


def task_score(name, pair, values, *, metric="ndcg@10", dataset=None, **more):
    """A task of a pair such as it2t whose queries q000, q001 … have these values of the metric."""
    query, document = (LETTERS[side] for side in pair.split("2"))
    task = EvaluationTask(name, "beir", query, document, metric, dataset=dataset)
    ids = [f"q{n:03}" for n in range(len(values))]
    scores = QueryScores(ids, {metric: np.asarray(values, dtype=np.float64)}, **more)
    return TaskScore.of(task, scores, documents=1000, rejected=(0, 0))
