"""Hard negatives: never a right answer, never more than k, no guard passed, the same ones every time."""

from dataclasses import replace

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from udfs.training.negatives import (
    NEGATIVES_OUTPUT,
    Found,
    MinedQuery,
    NegativesSpec,
    choose_batches,
    choose_negatives,
)

KEYS = st.sampled_from([f"c{n}" for n in range(12)])
IDS = st.sampled_from("abcd")
SCORES = st.floats(-1, 1, width=32)
ROWS = st.lists(
    st.builds(Found, KEYS, SCORES, st.lists(IDS, max_size=2).map(tuple)),
    unique_by=lambda row: row.key,
    max_size=12,
).map(lambda rows: sorted(rows, key=lambda row: -row.score))
ASKED = st.builds(
    MinedQuery,
    query_key=KEYS,
    right_keys=st.frozensets(KEYS, min_size=1, max_size=4),
    right_ids=st.frozensets(IDS, max_size=2),
    own=st.none() | st.builds(Found, KEYS, st.none(), st.lists(IDS, max_size=1).map(tuple)),
    positive_score=SCORES,
)
SPECS = st.builds(
    NegativesSpec,
    k=st.integers(1, 6),
    skip=st.integers(0, 4),
    highest=st.none() | st.floats(0.1, 1.0),
    own_picture=st.booleans(),
)


@given(ROWS, ASKED, SPECS)
def test_what_is_chosen_passes_every_guard(rows, asked, spec):
    chosen = choose_negatives(rows, asked=asked, spec=spec)
    by_key = {row.key: row for row in rows}
    own = asked.own.key if asked.own else None
    assert len(chosen.keys) == len(set(chosen.keys)) <= spec.k
    searched = chosen.keys
    if own in chosen.keys:
        assert spec.own_picture and chosen.keys[0] == own
        assert not asked.right_ids.intersection(asked.own.ids)
        searched = chosen.keys[1:]
    assert not asked.right_keys.intersection(chosen.keys)
    assert asked.query_key not in searched
    for key in searched:
        assert not asked.right_ids.intersection(by_key[key].ids)
        if spec.highest is not None:
            positive = asked.positive_score
            assert by_key[key].score <= positive - (1 - spec.highest) * abs(positive)
    places = [rows.index(by_key[key]) for key in searched]
    seen: set[str] = set()
    alike = [not seen.isdisjoint(rows[p].ids) or seen.update(rows[p].ids) for p in places]
    assert alike == sorted(alike, key=bool)  # those like a better one stand last
    first = alike.index(True) if True in alike else len(places)
    assert places[:first] == sorted(places[:first]) and places[first:] == sorted(places[first:])
    assert all(place >= spec.skip for place in places)


@given(ROWS, ASKED, SPECS)
def test_every_row_before_the_last_negative_is_accounted_for(rows, asked, spec):
    chosen = choose_negatives(rows, asked=asked, spec=spec)
    assert chosen == choose_negatives(rows, asked=asked, spec=spec)
    assert chosen.skipped <= spec.skip
    if len(chosen.keys) < spec.k and asked.own is None:
        assert sum(chosen[1:]) + len(chosen.keys) == len(rows)
    more = choose_negatives(rows, asked=asked, spec=replace(spec, k=spec.k + 1))
    assert more.keys[: spec.k] == chosen.keys


def asked(**more):
    return MinedQuery(query_key="q", right_keys=frozenset({"p"}), positive_score=0.8, **more)


def test_each_guard_by_hand():
    rows = [Found("p", 0.9), Found("x", 0.85), Found("y", 0.7, ("mug",)), Found("z", 0.6)]
    spec = NegativesSpec(k=2, highest=None)
    assert choose_negatives(rows, asked=asked(), spec=spec).keys == ["x", "y"]
    told = asked(right_ids=frozenset({"mug"}))
    assert choose_negatives(rows, asked=told, spec=spec) == (["x", "z"], 2, 0, 0, 0, 0)
    strict = replace(spec, highest=0.95)
    assert choose_negatives(rows, asked=asked(), spec=strict) == (["y", "z"], 1, 0, 0, 1, 0)
    skipping = replace(spec, skip=1)
    assert choose_negatives(rows, asked=asked(), spec=skipping) == (["y", "z"], 1, 0, 1, 0, 0)


def test_views_of_one_product_are_one_negative_while_there_are_others():
    views = [Found(f"mug-{n}", 0.7, ("mug",)) for n in range(3)]
    rows = [*views, Found("kite", 0.6, ("kite",)), Found("none", 0.5), Found("nor this", 0.5)]
    for k, keys in (
        (1, ["mug-0"]),
        (3, ["mug-0", "kite", "none"]),
        (5, ["mug-0", "kite", "none", "nor this", "mug-1"]),
    ):
        assert choose_negatives(rows, asked=asked(), spec=NegativesSpec(k=k)).keys == keys
    assert choose_negatives(rows, asked=asked(), spec=NegativesSpec(k=5)).alike == 1


def test_the_picture_of_a_fused_query_is_its_negative_only_where_asked_for():
    rows = [Found("own", 0.9), Found("p", 0.8), Found("x", 0.5)]
    fused, spec = asked(own=Found("own")), NegativesSpec(k=2)
    assert choose_negatives(rows, asked=fused, spec=spec) == (["x"], 1, 1, 0, 0, 0)
    wanted = replace(spec, own_picture=True)
    assert choose_negatives(rows, asked=fused, spec=wanted).keys == ["own", "x"]
    assert choose_negatives(rows[1:], asked=fused, spec=wanted).keys == ["own", "x"]
    shown = asked(own=Found("own", None, ("mug",)), right_ids=frozenset({"mug"}))
    assert choose_negatives(rows[1:], asked=shown, spec=wanted).keys == ["x"]


def test_a_positive_below_zero_keeps_its_distance():
    below = MinedQuery(query_key="q", right_keys=frozenset(), positive_score=-0.2)
    rows = [Found("near", -0.205), Found("far", -0.25)]
    assert choose_negatives(rows, asked=below, spec=NegativesSpec(highest=0.95)).keys == ["far"]


def test_batches_keep_every_pair_and_say_why_one_has_none():
    def row(pair, status, found):
        sides = {"query_key": "q", "own_key": None, "own_ids": None, "right_keys": ["p"]}
        rows = [{"rank": n, "key": key, "score": 0.1, "ids": None} for n, key in enumerate(found)]
        more = {"right_ids": [], "positive_score": 0.5, "found": rows if found else None}
        return {"pair": pair, "status": status, **sides, **more}

    rows = [row(0, "ok", ["p", "x"]), row(1, "query_rejected", ["x"]), row(2, "ok", [])]
    batch = pa.RecordBatch.from_pylist(rows)
    (made,) = choose_batches(iter([batch]), spec=NegativesSpec(k=1))
    assert made.schema == NEGATIVES_OUTPUT.arrow
    assert [r["keys"] for r in made.to_pylist()] == [["x"], [], []]
    assert [r["fewer"] for r in made.to_pylist()] == [False, False, True]
    assert [r["positive"] for r in made.to_pylist()] == [1, 0, 0]
