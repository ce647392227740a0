"""Which files a task is read from, and which instruction it has, without Spark."""

from pathlib import Path

import pytest

from jobs.stages.evaluate.data.beir import read_beir
from jobs.stages.evaluate.data.files import files_of
from jobs.stages.evaluate.data.mbeir import first_instructions, read_mbeir
from jobs.stages.evaluate.data.tasks import EvaluationTask
from udfs.errors import LakeError


def touched(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def task(folder: str, **fields) -> EvaluationTask:
    known = {"layout": "beir", "query": "text", "document": "text", "metric": "ndcg@10"}
    return EvaluationTask(**(known | {"name": "mine", "folder": folder} | fields))


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (["corpus.jsonl"], ["corpus.jsonl"]),
        (["corpus.jsonl.gz"], ["corpus.jsonl.gz"]),
        (["corpus.parquet", "corpus.jsonl"], ["corpus.parquet"]),
        (["corpus.jsonl", "corpus/corpus-00000-of-00001.parquet"], ["corpus.jsonl"]),
        (["corpus/test-00000-of-00001.parquet"], ["corpus/test-00000-of-00001.parquet"]),
        (["corpus/b.parquet", "corpus/a.parquet"], ["corpus/a.parquet", "corpus/b.parquet"]),
        (["corpus/train-0.parquet", "corpus/test-0.parquet"], ["corpus/test-0.parquet"]),
        (["corpus/0000.parquet", "corpus/README.md"], ["corpus/0000.parquet"]),
        (["corpus/1.jsonl", "corpus/1.parquet"], ["corpus/1.parquet"]),
        (["corpus2.jsonl", "my-corpus.jsonl", "corpus.csv"], []),
    ],
)
def test_corpus_files(tmp_path, there, found):
    folder = touched(tmp_path, *there)
    assert files_of(folder, "corpus", split="test") == [f"{folder}/{name}" for name in found]


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (["qrels/test.tsv", "qrels/train.tsv"], ["qrels/test.tsv"]),
        (["qrels/test.jsonl"], ["qrels/test.jsonl"]),
        (["qrels/test-00000-of-00001.parquet"], ["qrels/test-00000-of-00001.parquet"]),
        (["qrels/train.tsv", "qrels/testing.tsv"], []),
        (["qrels.tsv"], []),
    ],
)
def test_judgements_are_those_of_the_split_alone(tmp_path, there, found):
    folder = touched(tmp_path, *there)
    files = files_of(folder, "qrels", split="test", of_split=True)
    assert files == [f"{folder}/{name}" for name in found]


def test_missing_files_say_what_was_looked_for_and_what_is_there(tmp_path):
    folder = touched(tmp_path, "corpus.jsonl", "qrels/train.tsv")
    with pytest.raises(
        LakeError, match=r"mine: no qrels/dev\.\{tsv.* there are: corpus\.jsonl, qr"
    ):
        read_beir(None, task(folder, split="dev"))
    with pytest.raises(LakeError, match="empty or not a folder"):
        read_beir(None, task(str(tmp_path / "absent")))


def test_missing_mbeir_files_say_what_was_looked_for_and_what_is_there(tmp_path):
    folder = touched(tmp_path, "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl")
    mbeir = {"layout": "mbeir", "query": "image,text", "document": "image"}
    with pytest.raises(LakeError, match=r"nights_task4_test_cand_pool.* there are: mbeir_cirr_"):
        read_mbeir(None, task(folder, corpus="nights_task4", **mbeir))
    with pytest.raises(LakeError, match=r"mbeir_cirr_task7_test\.jsonl; query/test is empty"):
        read_mbeir(None, task(folder, corpus="cirr_task7", **mbeir))
    with pytest.raises(LakeError, match="corpus is not set"):
        read_mbeir(None, task(folder, **mbeir))


def test_first_instruction_of_each_dataset_for_the_modalities():
    tsv = (
        "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\n"
        'text\timage\tVisualNews\t0\tFind "the" picture.\tAnother.\n'
        "text\timage\tMSCOCO\t9\t\tThe second.\n"
        "text\timage\tEmpty\t7\t\t\n"
        "image\ttext\tVisualNews\t0\tFind a caption.\n"
    )
    t2i = task("", layout="mbeir", document="image")
    assert first_instructions(tsv, task=t2i) == {"0": 'Find "the" picture.', "9": "The second."}
    i2t = task("", layout="mbeir", query="image")
    assert first_instructions(tsv, task=i2t) == {"0": "Find a caption."}
