"""Full text of shards against the definition of BM25 and of its fusion; what may be found, and what cannot be opened."""

import json
import math
import sys
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, shard_of
from udfs.errors import IndexDataError, LakeError
from udfs.full_text import text_index as text_index_module
from udfs.full_text.hybrid import HybridIndex, fuse, open_full_text
from udfs.full_text.text_index import (
    FullText,
    count_words,
    require_tantivy,
    tokens_of,
    write_full_text,
)
from udfs.full_text.text_shards import FULL_TEXT_INPUT, full_text_batches
from udfs.index.plan import default_plan
from udfs.search.batches import SEARCH_INPUT
from udfs.search.groups import Groups
from udfs.search.hits import Hits
from udfs.search.index import Index
from udfs.specs import SearchOptions, SearchSpec

WORDS = [f"w{n}" for n in range(12)]
TEXTS = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)),
    min_size=1,
    max_size=40,
)


def bm25(texts, query, *, total=None, rows=None, k1=1.2, b=0.75):
    """Robertson and Zaragoza's BM25 with Lucene's idf, over rows that have a word that at most half of the rows have.

    `total` rows of `rows` have a word: those of `texts`, where it is not given.
    """
    found = [Counter((text or "").split()) for text in texts]
    total = sum((Counter(set(row)) for row in found), Counter()) if total is None else total
    rows = rows or len(found)
    lengths = [sum(row.values()) for row in found]
    mean = sum(lengths) / len(found)
    scores = {}
    for word in dict.fromkeys(query.split()):
        if 2 * total[word] > rows:
            continue
        idf = math.log(1 + (rows - total[word] + 0.5) / (total[word] + 0.5))
        for at, row in enumerate(found):
            if word in row:
                norm = k1 * (1 - b + b * lengths[at] / mean)
                scores[at] = scores.get(at, 0) + idf * row[word] * (k1 + 1) / (row[word] + norm)
    return scores


@given(texts=TEXTS, query=st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join))
@settings(deadline=None, max_examples=60)
def test_scores_are_those_of_bm25(texts, query):
    found = FullText.of(enumerate(texts))
    D, I = found.search(query, len(texts))
    expected = bm25(texts, query)
    assert sorted(I.tolist()) == sorted(expected)
    np.testing.assert_allclose(D, [expected[i] for i in I.tolist()], rtol=1e-4)
    assert found.rows == len(texts)
    assert (np.lexsort((I, -D)) == np.arange(len(D))).all()


@pytest.mark.parametrize("cost", [0, 1e9], ids=["told which", "found and left out"])
@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_only_allowed_rows_are_found_and_none_of_them_is_missed(cost, data):
    texts = data.draw(TEXTS)
    allowed = data.draw(st.lists(st.sampled_from(range(len(texts))), unique=True))
    n = data.draw(st.integers(1, 10))
    query = " ".join(data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_index_module, "TOLD_ROW_COST", cost)
        _, I = FullText.of(enumerate(texts)).search(
            query, n, allowed=np.sort(np.array(allowed, np.int64))
        )
    expected = {i: s for i, s in bm25(texts, query).items() if i in allowed}
    best = sorted(expected.values(), reverse=True)[:n]
    assert set(I.tolist()) <= set(expected) and len(set(I.tolist())) == len(I)
    np.testing.assert_allclose([expected[i] for i in I.tolist()], best, rtol=1e-4)


def test_words_of_many_scripts_and_of_part_numbers():
    assert tokens_of("Crème BRÛLÉE, SKU-0047_11/X! naïve") == [
        *("creme", "brulee", "sku", "0047", "11", "x", "naive")
    ]
    assert tokens_of("赤いマグ 马克杯") == [*"赤いマグ马克杯"]
    assert tokens_of("แดง") == [*"แดง"]
    assert tokens_of("कप कप, кружка") == ["कप", "кружка"]
    assert tokens_of(
        "e\u0301te\u0301, I\u0307 İznik, n\u0308, Ελλάδα, Ελλα\u0301δα, \u110b\u1167"
    ) == [*("ete", "i", "iznik", "n", "ελλάδα", "여")]
    for nothing in ("", "  ", "!?…", "🙂", "x" * 300):
        assert tokens_of(nothing) == []
    rows = FullText.of([(5, "a red mug"), (7, "blue \udcff kite"), (9, None), (11, "")])
    assert rows.search('(red AND: mug~ "', 5)[1].tolist() == [5]
    assert rows.search("KITE", 5)[1].tolist() == [7]
    assert rows.search("!", 5)[1].tolist() == []


def test_letters_and_accents_that_stand_apart_are_found_by_those_that_do_not():
    for form in ("NFC", "NFD"):
        written = [(n, unicodedata.normalize(form, t)) for n, t in enumerate(["Crème", "été", "x"])]
        for asked in ("NFC", "NFD"):
            found = FullText.of(written).search(unicodedata.normalize(asked, "crème \udcff"), 5)
            assert found[1].tolist() == [0], (form, asked)


@given(
    parts=st.lists(TEXTS, min_size=2, max_size=3),
    query=st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join),
)
@settings(deadline=None, max_examples=15)
def test_parts_weigh_words_by_the_rows_of_all(parts, query):
    opened = [FullText.of(enumerate(texts)) for texts in parts]
    counts = count_words(opened, query)
    everything = [Counter(set((text or "").split())) for texts in parts for text in texts]
    total = sum(everything, Counter())
    for texts, part in zip(parts, opened, strict=True):
        D, I = part.search(query, len(texts), counts=counts)
        expected = bm25(texts, query, total=total, rows=len(everything))
        assert sorted(I.tolist()) == sorted(expected)
        np.testing.assert_allclose(D, [expected[i] for i in I.tolist()], rtol=1e-4)


def batches_of(rows, size=3):
    shards, ids, texts = zip(*rows, strict=True)
    batch = FULL_TEXT_INPUT.batch(
        pa.array(shards, pa.int32()), pa.array(ids, pa.int64()), pa.array(texts, pa.string())
    )
    return [batch.slice(at, size) for at in range(0, len(rows), size)]


def test_tasks_write_each_shard_whole_and_a_damaged_file_is_not_read(tmp_path: Path):
    rows = [(0, None, None), *((0, n, f"red {n}") for n in range(4)), (1, None, None)]
    rows += [(2, 9, None), (2, 10, "blue"), (2, None, None)]
    made = pa.Table.from_batches(full_text_batches(iter(batches_of(rows)), root=str(tmp_path)))
    assert [(r["shard"], r["rows"]) for r in made.to_pylist()] == [(0, 4), (1, 0), (2, 2)]
    files = [json.loads(r["record"])["name"] for r in made.to_pylist()]
    opened = [FullText.open(tmp_path / name) for name in files]
    assert [text.rows for text in opened] == [4, 0, 2]
    assert opened[0].search("3", 5)[1].tolist() == [3]
    assert opened[1].search("red", 5)[1].tolist() == []
    assert opened[2].search("blue", 5)[1].tolist() == [10]

    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("meta.json", "{}")
    with pytest.raises(IndexDataError, match="written by another version: build the index again"):
        FullText.open(broken)


def hits_of(ids, groups=None):
    I = np.array(ids, np.int64)
    codes = np.full(len(I), -1, np.int32) if groups is None else np.array(groups, np.int32)
    names = np.array([f"r{i}" for i in ids], object)
    return Hits(np.linspace(1, 0, len(I), dtype=np.float32), I, names, codes)


@given(
    a=st.lists(st.integers(0, 30), unique=True, max_size=12),
    b=st.lists(st.integers(0, 30), unique=True, max_size=12),
    k=st.integers(1, 12),
    rrf_k=st.integers(1, 100),
    max_per=st.sampled_from([None, 1, 2]),
)
def test_fusion_is_the_sum_of_reciprocal_ranks(a, b, k, rrf_k, max_per):
    group = [i % 5 for i in range(31)]
    parts = [hits_of(ids, [group[i] for i in ids]) for ids in (a, b)]
    found = fuse(parts, k, rrf_k=rrf_k, max_per=max_per)
    scores = Counter()
    for ids in (a, b):
        for rank, i in enumerate(ids, 1):
            scores[i] += 1 / (rrf_k + rank)
    kept, seen = [], Counter()
    for i in sorted(scores, key=lambda i: (-np.float32(scores[i]), i)):
        seen[group[i]] += 1
        if max_per is None or seen[group[i]] <= max_per:
            kept.append(i)
    assert found.I.tolist() == kept[:k]
    assert found.ids.tolist() == [f"r{i}" for i in kept[:k]]
    np.testing.assert_allclose(found.D, [scores[i] for i in kept[:k]], rtol=1e-6)


def test_an_index_finds_by_vector_and_by_words_what_may_be_found(tmp_path: Path):
    rows, dim = 300, 16
    xb = clustered(rows, dim, clusters=6)
    build(tmp_path, xb, default_plan(rows, dim, shards=2))
    ids = np.arange(rows) + FIRST_VECTOR_ID
    texts = {int(i): f"mug {'red' if n % 3 else 'blue'} part{n}" for n, i in enumerate(ids)}
    with pytest.raises(IndexDataError, match=r"has no full text.*index\.full_text=true"):
        open_full_text(str(tmp_path))
    of_shards = tuple(
        FullText.of([(int(i), texts[int(i)]) for i in ids[shard_of(ids, 2) == shard]])
        for shard in range(2)
    )
    index = Index.open(tmp_path)
    assert index.findable is None
    hybrid = HybridIndex(index, of_shards)
    x = xb[7:8]
    found = hybrid.search(x, "part200", SearchOptions(5), rrf_k=60)
    (near,) = index.search(x, SearchOptions(100)).split()
    assert found.I[:2].tolist() == [ids[7], ids[200]] and set(found.I) - {ids[200]} <= set(near.I)
    one_new = FullText.of([(int(ids[250]), "novel")])  # alone it has no word that few rows have
    by_new = HybridIndex(index, (*of_shards, one_new)).search_words("novel mug", 5)
    assert by_new.I.tolist() == [ids[250]]
    words = hybrid.search_words("part200 part7", 5)
    assert set(words.I) == {ids[7], ids[200]} and words.ids[0].startswith("row-")

    allowed = ids[100:200]
    some = index.restrict(allowed=allowed, gone=ids[150:160])
    assert some.findable.tolist() == [*ids[100:150], *ids[160:200]]
    found = HybridIndex(some, of_shards).search(
        x, "part200 part155 part120", SearchOptions(50), rrf_k=60
    )
    assert set(found.I) <= set(some.findable) and ids[120] in found.I[:2]

    groups = Groups(ids, (np.arange(rows) % 4).astype(np.int32))
    grouped = HybridIndex(index.restrict(groups=groups), of_shards)
    found = grouped.search(x, "blue", SearchOptions(10), rrf_k=60, max_per=1)
    assert sorted(found.groups.tolist()) == [0, 1, 2, 3] and found.complete


def test_two_attempts_write_files_of_their_own_names(tmp_path: Path):
    rows = [(n, f"red {n}") for n in range(50)]
    made = [write_full_text(rows, shard=3, root=str(tmp_path), work_dir=None)[0] for _ in range(2)]
    assert all(record.name.startswith("shard-00003-") for record in made)
    for record in made:
        assert (tmp_path / record.name).stat().st_size == record.bytes
        assert FullText.open(tmp_path / record.name).search("17", 1)[1].tolist() == [17]


def test_answers_take_no_notice_of_a_lowest_cosine_and_refuse_a_wrong_k(tmp_path: Path):
    rows, dim = 40, 16
    xb = clustered(rows, dim, clusters=6)
    build(tmp_path, xb, default_plan(rows, dim))
    ids = (np.arange(rows) + FIRST_VECTOR_ID).tolist()
    texts = FullText.of((i, f"part{n}") for n, i in enumerate(ids))
    spec = SearchSpec(str(tmp_path), "model-a", SearchOptions(3), min_score=0.99)
    names, k = pa.array(["a", "b"]), pa.array([None, 0], pa.int32())
    nothing = pa.nulls(2, pa.string())
    batch = SEARCH_INPUT.batch(names, k, pa.array(["ok", "ok"]), nothing, xb[[5, 6]].tolist())
    hybrid = HybridIndex(Index.open(tmp_path), (texts,))
    found, refused = hybrid.answer(batch, ["part5", "part6"], spec, rrf_k=60)
    assert found.status == "ok" and len(found.hits.D) == 3 and found.hits.I[0] == ids[5]
    assert found.hits.D[0] == pytest.approx(2 / 61)
    assert refused.status == "k_out_of_range" and not len(refused.hits.D)


def test_a_missing_package_is_said_as_such(monkeypatch):
    monkeypatch.setitem(sys.modules, "tantivy", None)
    with pytest.raises(LakeError, match=r"package tantivy, which is not installed here.*full-text"):
        require_tantivy()
