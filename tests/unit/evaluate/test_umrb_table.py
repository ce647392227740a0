"""conf/umrb.yaml: the datasets of UMRB by pair, class and metric, as the GME paper counts them."""

from collections import Counter

import pytest

from jobs.settings.evaluate import EvaluateSettings
from jobs.stages.evaluate.data.tasks import EvaluationTask, load_tasks

PAIRS = {
    "t2t": 16,
    "i2i": 1,
    "t2i": 4,
    "i2t": 4,
    "t2vd": 10,
    "t2it": 2,
    "it2t": 5,
    "it2i": 2,
    "it2it": 3,
}
RECALL_AT_10 = {"fashion200k-t2i", "fashion200k-i2t", "fashioniq", "okvqa"}


@pytest.fixture(scope="module")
def tasks() -> list[EvaluationTask]:
    return load_tasks(EvaluateSettings(tasks=["umrb.yaml"], data="/data/umrb"))


@pytest.fixture(scope="module")
def datasets(tasks: list[EvaluationTask]) -> dict[str, EvaluationTask]:
    """One task of each dataset."""
    return {task.counted_as: task for task in tasks}


def test_47_datasets_by_pair_and_class(datasets):
    assert len(datasets) == 47
    assert Counter(task.pair for task in datasets.values()) == PAIRS
    kinds = Counter(task.kind for task in datasets.values())
    assert kinds == {"single": 17, "cross": 18, "fused": 12}


def test_metrics_are_the_papers(datasets):
    for name, task in datasets.items():
        if task.pair == "t2vd":
            expected = "ndcg@5"
        elif task.pair == "t2t" and name != "webqa-t2t":
            expected = "ndcg@10"
        else:
            expected = "hit@10" if name in RECALL_AT_10 else "hit@5"
        assert task.metric == expected, name


def test_only_cqadupstack_has_parts(tasks):
    parts = Counter(task.dataset for task in tasks if task.dataset is not None)
    assert parts == {"cqadupstack": 12}
    assert len({task.folder for task in tasks if task.dataset}) == 12


def test_every_task_is_another_question_with_its_own_instruction(tasks):
    assert len({(t.folder, t.corpus, t.query, t.document) for t in tasks}) == len(tasks)
    for task in tasks:
        assert task.folder.startswith("/data/umrb/"), task.name
        assert task.instruction, task.name
        assert task.instruction.endswith("."), task.name
    assert {t.name for t in tasks if t.drop_self} == {"arguana", "quora"}
    assert {t.name: t.split for t in tasks if t.split != "test"} == {"msmarco": "dev"}


def test_mbeir_names_agree_with_the_modalities(tasks):
    numbers = {
        "t2i": 0,
        "t2t": 1,
        "t2it": 2,
        "i2t": 3,
        "i2i": 4,
        "it2t": 6,
        "it2i": 7,
        "it2it": 8,
    }
    mbeir = [task for task in tasks if task.layout == "mbeir"]
    assert len(mbeir) == 16
    for task in mbeir:
        dataset, _, number = task.corpus.rpartition("_task")
        assert int(number) == numbers[task.pair], task.name
        assert task.name.split("-")[0] == dataset
