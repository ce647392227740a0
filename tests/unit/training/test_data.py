"""Pairs tables: which rows a step takes, what is no negative, and what is refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from udfs.errors import ImageRejected, LakeError, SettingsError
from udfs.training.data import PAIRS_SCHEMA, PairItem, TablePairs, write_pairs
from udfs.training.pictures import random_cut
from udfs.training.plan import Mixture
from udfs.training.spec import PairsSpec


@pytest.fixture
def open_pairs(pairs_file, preparer):
    def open_one(spec=None, batch=8, seed=0, **more):
        spec = spec or PairsSpec(path=str(pairs_file))
        return TablePairs(spec, preparer, batch=batch, seed=seed, **more)

    return open_one


def test_a_step_depends_on_seed_and_number_only(open_pairs):
    first, second = open_pairs(), open_pairs()
    for step in (3, 0, 7):
        assert first.plan(step).items == second.plan(step).items
    assert first.plan(0).items != first.plan(1).items
    assert first.plan(0).items != open_pairs(seed=1).plan(0).items


def test_weights_and_homogeneous_batches(open_pairs, pairs_file):
    even = PairsSpec(path=str(pairs_file), weights=(("t2i", 0.5), ("i2i", 0.5)))
    counts = Counter()
    for step in range(100):
        counts.update({t.direction: len(t.queries) for t in open_pairs(even).plan(step).terms})
    assert abs(counts["t2i"] / counts.total() - 0.5) < 0.06
    plans = [open_pairs(replace(even, homogeneous=True)).plan(step) for step in range(60)]
    assert {len(plan.terms) for plan in plans} == {1}
    assert 15 < sum(plan.terms[0].direction == "t2i" for plan in plans) < 45


def test_directions_leave_the_others_out(open_pairs, pairs_file):
    plans = [open_pairs(directions=("i2i",)).plan(step) for step in range(5)]
    assert {t.direction for plan in plans for t in plan.terms} == {"i2i"}
    with pytest.raises(SettingsError, match="t2t"):
        open_pairs(directions=("t2t",))
    weighted = PairsSpec(path=str(pairs_file), weights=(("t2i", 1.0),))
    with pytest.raises(SettingsError, match="no weight"):
        open_pairs(weighted, directions=("i2i",))


def test_rows_of_a_step_and_their_negatives(open_pairs):
    plan = open_pairs(PairsSpec(path=open_pairs()._spec.path, negatives=1), batch=16).plan(0)
    pictures = [t for t in plan.terms if t.direction == "i2i"]
    hard = [item for item in plan.items if isinstance(item.side, int)]
    assert len(hard) == sum(len(t.queries) for t in pictures) > 0
    for term in plan.terms:
        for query, target in zip(term.queries, term.targets, strict=True):
            assert plan.items[query].pair == plan.items[target].pair
            assert (plan.items[query].side, plan.items[target].side) == ("query", "positive")
        assert set(term.candidates) == set(range(16, len(plan.items)))
    positives = plan.items[16:32]
    same = plan.ids[16:32][:, None] == plan.ids[16:32][None, :]
    table = open_pairs()._table
    colours = np.array([table["positive_id"][item.pair].as_py() for item in positives])
    assert np.array_equal(same, colours[:, None] == colours[None, :])


def test_a_negative_that_is_right_for_other_pairs_is_none_of_theirs(preparer, tmp_path):
    kites = [{"text": "a kite", "id": "kite"}, {"text": "a boat"}]
    rows = [
        {"query_text": "mugs", "positive_text": "a mug", "positive_id": "mug", "negatives": kites},
        {"query_text": "kites", "positive_text": "the kite", "positive_id": "kite"},
    ]
    table = pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)
    file = write_pairs(tmp_path / "p.arrow", table.to_batches())
    plan = TablePairs(PairsSpec(path=str(file)), preparer, batch=2, seed=0).plan(0)
    ids = dict(zip([(i.pair, i.side) for i in plan.items], plan.ids, strict=True))
    assert ids[0, 0] == ids[1, "positive"] != ids[0, "positive"]
    assert ids[0, 1] not in {ids[0, "positive"], ids[1, "positive"]}


def test_rows_of_one_content_are_one_answer_whatever_they_are_called(preparer, tmp_path):
    rows = [
        {"query_text": "a", "positive_text": "mug", "positive_id": "1"},
        {"query_text": "b", "positive_text": "mug", "positive_id": "2"},
        {"query_text": "c", "positive_text": "kite", "positive_id": "2"},
        {"query_text": "d", "positive_text": "boat", "negatives": [{"text": "mug"}, {"text": "d"}]},
        {"query_text": "e", "positive_text": "shoe", "positive_id": ""},
        {"query_text": "f", "positive_text": "hat", "positive_id": ""},
    ]
    table = pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)
    file = write_pairs(tmp_path / "p.arrow", table.to_batches())
    plan = TablePairs(PairsSpec(path=str(file)), preparer, batch=6, seed=0).plan(0)
    ids = dict(zip([(i.pair, i.side) for i in plan.items], plan.ids.tolist(), strict=True))
    mugs = {ids[0, "positive"], ids[1, "positive"], ids[2, "positive"], ids[3, 0]}
    assert len(mugs) == 1
    assert ids[3, 1] == ids[3, "query"]  # the query itself
    assert len({*mugs, *(ids[n, "positive"] for n in (3, 4, 5))}) == 4


def test_negatives_without_ids_are_read_too(preparer, tmp_path):
    rows = [{"query_text": "a", "positive_text": "b", "negatives": [{"text": "c"}]}] * 2
    file = write_pairs(tmp_path / "p.arrow", pa.Table.from_pylist(rows).to_batches())
    plan = TablePairs(PairsSpec(path=str(file)), preparer, batch=2, seed=0).plan(0)
    assert [item.side for item in plan.items] == ["query"] * 2 + ["positive"] * 2 + [0, 0]


def test_only_queries_carry_the_instruction(open_pairs, preparer):
    pairs = open_pairs()
    plan = pairs.plan(0)
    told = pairs.prepare(plan.items[0])
    bare = open_pairs(instructions=False).prepare(plan.items[0])
    assert told.tokens > bare.tokens
    positive = plan.items[plan.terms[0].targets[0]]
    assert np.array_equal(
        pairs.prepare(positive).input_ids,
        open_pairs(instructions=False).prepare(positive).input_ids,
    )


def test_a_share_of_the_data_is_part_of_a_larger_one(open_pairs):
    def seen(share):
        return {i.pair for step in range(40) for i in open_pairs(share=share).plan(step).items}

    assert seen(0.25) < seen(0.5) < seen(1.0) == set(range(64))


def test_pictures_by_reference(preparer, tmp_path):
    from tests.unit.training.conftest import picture

    (tmp_path / "a.png").write_bytes(picture("red"))
    rows = [
        {"query_text": "red", "positive_image_uri": "a.png"},
        {"query_text": "blue", "positive_image_uri": "b.png", "positive_text": "Blue"},
    ]
    schema = PAIRS_SCHEMA
    file = write_pairs(tmp_path / "p.arrow", pa.Table.from_pylist(rows, schema=schema).to_batches())
    pairs = TablePairs(
        PairsSpec(path=str(file), image_base=str(tmp_path)), preparer, batch=2, seed=0
    )
    assert {t.direction for step in range(9) for t in pairs.plan(step).terms} == {"t2i", "t2it"}
    assert pairs.prepare(PairItem(0, "positive", 0)).patch_count == 16
    with pytest.raises(ImageRejected, match=r"b\.png"):
        pairs.prepare(PairItem(1, "positive", 0))


def test_what_is_refused(tmp_path, open_pairs, pairs_file):
    def write(rows):
        schema = PAIRS_SCHEMA if rows and "answer" not in rows[0] else None
        return write_pairs(
            tmp_path / "x.arrow", pa.Table.from_pylist(rows, schema=schema).to_batches()
        )

    with pytest.raises(LakeError, match=r"row 1 .* no positive"):
        write([{"query_text": "a", "positive_text": "b"}, {"query_text": "a"}])
    with pytest.raises(LakeError, match="answer"):
        write([{"query_text": "a", "answer": "b"}])
    with pytest.raises(LakeError, match="no rows"):
        write([])
    with pytest.raises(SettingsError, match="t2t"):
        open_pairs(PairsSpec(path=str(pairs_file), weights=(("t2t", 1.0),)))


def test_a_mixture_keeps_its_share_and_its_sources(open_pairs):
    mixture = Mixture(open_pairs(), open_pairs(batch=4), share=0.8, seed=0)
    sizes = Counter(sum(len(t.queries) for t in mixture.plan(step).terms) for step in range(200))
    assert 140 < sizes[8] < 180
    assert sizes[8] + sizes[4] == 200
    plan = mixture.plan(5)
    assert mixture.prepare(plan.items[0]).tokens > 0


def test_a_cut_is_part_of_the_picture_and_follows_its_seed(pairs_file, preparer):
    import numpy as np
    from PIL import Image

    columns = np.arange(80, dtype=np.uint8)
    whole = Image.fromarray(np.stack([np.tile(columns, (60, 1))] * 3, axis=-1))
    cuts = [random_cut(whole, least=0.3, seed=seed) for seed in range(200)]
    shares = np.array([cut.width * cut.height / (80 * 60) for cut in cuts])
    assert 0.3 <= shares.min() < 0.4
    assert shares.max() > 0.9
    nearly = [random_cut(whole, least=0.95, seed=seed).size for seed in range(200)]
    assert min(width * height for width, height in nearly) >= 0.95 * 80 * 60
    assert random_cut(whole.resize((1, 1)), least=0.3, seed=0).size == (1, 1)
    steps = {int(np.sign(np.diff(np.asarray(cut)[0, :, 0].astype(int)).mean())) for cut in cuts}
    assert steps == {-1, 1}  # mirrored or not
    spec = PairsSpec(path=str(pairs_file), crop=0.3)
    item = PairItem(0, "positive", 7)

    def patches(spec, item):
        return TablePairs(spec, preparer, batch=4, seed=0).prepare(item).patches

    first = patches(spec, item)
    assert first is not None
    assert np.array_equal(first, patches(spec, item))
    assert not np.array_equal(first, patches(replace(spec, crop=1.0), item))
