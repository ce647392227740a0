"""Small stand-ins for the data of retrieval tasks, in each of the layouts, with what a reader has to find in them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.stages.evaluate.data.tasks import EvaluationTask
from tests.spark.conftest import picture

COLOURS = ("red", "blue", "green", "white", "black")
KINDS = ("mug", "kite", "shoe", "lamp")
MBEIR_IDS = {  # M-BEIR's own numbers, before the colon of its ids
    name: str(number)
    for number, name in enumerate(
        [
            "visualnews",
            "fashion200k",
            "webqa",
            "edis",
            "nights",
            "oven",
            "infoseek",
            "fashioniq",
            "cirr",
            "mscoco",
        ]
    )
}
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Item:
    """A document or query: what is written, not how."""

    id: str
    text: str | None = None
    title: str | None = None
    image: bytes | None = None
    path: str | None = None  # of the image under the folder, where files are written

    @property
    def content(self) -> str | None:
        """Title and text as GME joins them."""
        return " ".join(part for part in (self.title, self.text) if part).strip() or None


@dataclass
class StandIn:
    """One task's data and what to find in it."""

    task: EvaluationTask
    documents: list[Item] = field(default_factory=list)
    queries: list[Item] = field(default_factory=list)  # those judged in the split
    judgements: dict[tuple[str, str], int] = field(default_factory=dict)
    uris: bool = False  # pictures are read by path

    @property
    def root(self) -> Path:
        return Path(self.task.folder)


def drawn_items(stand: StandIn, *, seed: int, ids: Sequence[str], asked: Sequence[str]) -> None:
    """Documents and queries of the task's modalities; query n asks for document n, and a little for the next one."""
    query, document = stand.task.query, stand.task.document
    for n, name in enumerate(ids):
        stand.documents.append(_item(name, f"a {_thing(seed, n)}", document, number=seed + 7 * n))
    for n, name in enumerate(asked):
        words = f"where is the {_thing(seed, n)}?"
        stand.queries.append(_item(name, words, query, number=seed + 7 * n + 1))
        stand.judgements[name, ids[n]] = 2
        if stand.task.metric.startswith(
            "ndcg"
        ):  # of a hit, a second one would leave little to miss
            stand.judgements[name, ids[n + 1]] = 1


def _thing(seed: int, n: int) -> str:
    """Twenty of them: no two documents of a task are called the same."""
    return f"{COLOURS[(seed + n) % 5]} {KINDS[(seed // 5 + n) % 4]}"


def _item(name: str, words: str, modality: str, *, number: int) -> Item:
    shown = modality != "text"
    return Item(
        name,
        text=words if "text" in modality else None,
        image=picture(number) if shown else None,
        path=f"images/{re.sub(r'[^A-Za-z0-9-]', '_', name)}-{number}.png" if shown else None,
    )


def write_texts(stand: StandIn, *, form: int) -> None:
    """BEIR's own layout: text only, with titles; `form` picks one of its ways to lie on disk."""
    stand.documents = [
        Item(d.id, text=d.text, title=[f'the "{n}"', None, "", "tab\tin it"][n % 4])
        for n, d in enumerate(stand.documents)
    ]
    corpus = [{"_id": d.id, "title": d.title, "text": d.text} for d in stand.documents]
    unasked = Item("unasked", text="a query of another split")
    queries = [{"_id": q.id, "text": q.text} for q in [*stand.queries, unasked]]
    split, root = stand.task.split, stand.root
    if form == 0:
        _lines(root / "corpus.jsonl", [row | {"metadata": {"url": ""}} for row in corpus])
        _lines(root / "queries.jsonl", queries)
        _tsv(root / f"qrels/{split}.tsv", stand)
        (root / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nunasked\tnone\t1\n")
    elif form == 1:
        _lines(root / "corpus.jsonl.gz", corpus)
        _lines(root / "queries.jsonl.gz", queries)
        _lines(root / f"qrels/{split}.jsonl", _judged(stand))
    elif form == 2:
        _table(root / "corpus.parquet", corpus)
        _table(root / "queries.parquet", queries)
        _table(root / f"qrels/{split}.parquet", _judged(stand))
    else:
        _table(root / "corpus/corpus-00000-of-00002.parquet", corpus[::2])
        _table(root / "corpus/corpus-00001-of-00002.parquet", corpus[1::2])
        _table(root / "queries/queries-00000-of-00001.parquet", queries)
        _table(root / f"qrels/{split}-00000-of-00001.parquet", _judged(stand, score=float))
        other = [{"query-id": "unasked", "corpus-id": "none", "score": 1.0}]
        _table(root / "qrels/train-00000-of-00001.parquet", other)


def write_pages(stand: StandIn) -> None:
    """ViDoRe: numbers as ids, pages as structs of bytes and a name, queries in a column `query`."""
    split = f"{stand.task.split}-00000-of-00001.parquet"
    corpus = [
        {"corpus-id": int(d.id), "image": {"bytes": d.image, "path": "page.png"}}
        for d in stand.documents
    ]
    _table(stand.root / "corpus" / split, corpus, image=STRUCT)
    queries = [{"query-id": int(q.id), "query": q.text} for q in stand.queries]
    _table(stand.root / "queries" / split, queries)
    judged = [
        {"query-id": int(q), "corpus-id": int(d), "answer": "", "score": score}
        for (q, d), score in stand.judgements.items()
    ]
    _table(stand.root / "qrels" / split, judged)


def write_mixed(stand: StandIn, *, images: str) -> None:
    """MTEB's any-to-any layout, as UMRB's own datasets have it; `images`: struct, binary or paths."""
    split = f"{stand.task.split}-00000-of-00001.parquet"
    stand.uris = images == "paths"
    for name, items in (
        ("corpus/corpus-00000-of-00001.parquet", stand.documents),
        (f"query/{split}", [*stand.queries, Item("unasked", text="?", image=b"x", path="x.png")]),
    ):
        kind = {"struct": STRUCT, "binary": pa.binary(), "paths": pa.string()}[images]
        rows = [
            {"id": i.id, "modality": "", "text": i.text, "image": _shown(stand, i, images)}
            for i in items
        ]
        _table(stand.root / name, rows, image=kind)
    judged = [row | {"Q0": "Q0"} for row in _judged(stand)]
    _table(stand.root / "qrels" / split, judged)


def _shown(stand: StandIn, item: Item, images: str) -> object:
    if item.image is None:
        return None
    if images == "paths":
        _picture(stand, item)
        return item.path
    return {"bytes": item.image, "path": item.path} if images == "struct" else item.image


def write_mbeir(stand: StandIn, *, qrels: bool = True, objects: bool = False) -> None:
    """M-BEIR: JSON lines, pictures by path; without qrels the positives are in the queries, as ids or objects."""
    name, split, root = stand.task.corpus, stand.task.split, stand.root
    stand.uris = True
    for item in (*stand.documents, *stand.queries):
        _picture(stand, item)
    pool = [
        {"did": d.id, "txt": d.text, "img_path": d.path, "modality": "", "src_content": "{}"}
        for d in stand.documents
    ]
    tested = "_test" if name.startswith("mscoco") else ""
    _lines(root / f"cand_pool/local/mbeir_{name}{tested}_cand_pool.jsonl", pool)
    queries = []
    for q in stand.queries:
        positives = [d for asked, d in stand.judgements if asked == q.id]
        listed = [{"did": d} for d in positives] if objects else positives
        row = {"qid": q.id, "query_txt": q.text, "query_img_path": q.path, "query_modality": ""}
        queries.append(row | {"pos_cand_list": listed, "neg_cand_list": []})
    _lines(root / f"query/{split}/mbeir_{name}_{split}.jsonl", queries)
    if qrels:
        number = name.rpartition("_task")[2]
        lines = [f"{q} 0 {d} {score} {number}\n" for (q, d), score in stand.judgements.items()]
        file = root / f"qrels/{split}/mbeir_{name}_{split}_qrels.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines))


def write_umrb(tasks: Sequence[EvaluationTask]) -> list[StandIn]:
    """All of UMRB: two queries a task, and documents enough that its metric can miss."""
    stands = []
    for number, task in enumerate(tasks):
        stand = StandIn(task)
        ids, asked = _names(task)
        drawn_items(stand, seed=number, ids=ids, asked=asked)
        if task.layout == "mbeir":
            write_mbeir(stand)
        elif task.document == "page":
            write_pages(stand)
        elif task.pair == "t2t":
            write_texts(stand, form=number % 4)
        else:
            write_mixed(stand, images=["struct", "binary", "paths"][number % 3])
        stands.append(stand)
    return stands


def _names(task: EvaluationTask) -> tuple[list[str], list[str]]:
    """Ids of documents and queries, as the task's layout has them."""
    count = {"ndcg@10": 4, "ndcg@5": 7, "hit@5": 10, "hit@10": 14}[task.metric]
    if task.drop_self:  # the queries are documents
        return ["q1", "d1", "d2", "q0"], ["q0", "q1"]
    if task.document == "page":
        return [str(n) for n in range(count)], ["0", "1"]
    if task.layout == "mbeir":
        dataset = MBEIR_IDS[str(task.corpus).split("_")[0]]
        return [f"{dataset}:{n}" for n in range(count)], [f"{dataset}:0", f"{dataset}:1"]
    return [f"d{n}" for n in range(count)], ["q0", "q1"]


def _picture(stand: StandIn, item: Item) -> None:
    if item.image is None:
        return
    file = stand.root / item.path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(item.image)


def _judged(stand: StandIn, score: type = int) -> list[dict]:
    return [
        {"query-id": q, "corpus-id": d, "score": score(value)}
        for (q, d), value in stand.judgements.items()
    ]


def _tsv(file: Path, stand: StandIn) -> None:
    lines = [f"{q}\t{d}\t{score}\n" for (q, d), score in stand.judgements.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def _lines(file: Path, rows: Sequence[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)


def _table(file: Path, rows: Sequence[dict], *, image: pa.DataType | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{k: v for k, v in row.items() if k != "image"} for row in rows])
    if image is not None:
        table = table.append_column("image", pa.array([row["image"] for row in rows], image))
    pq.write_table(table, file)
