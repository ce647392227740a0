"""Steps over the drawn catalogue: train combinations only, changes that are right, pictures cut and mirrored as seen."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.unit.training.conftest import PROFILE, picture
from udfs.drawing import Combination, held_out
from udfs.drawing import tasks as drawing_tasks
from udfs.drawing.tasks import ATTRIBUTES, product_name
from udfs.drawing.training_rows import INSTRUCTIONS, DrawnPairs
from udfs.drawing.validation import DrawnEvalSpec, draw_tasks
from udfs.drawing.words import COLOUR_WORDS, KIND_WORDS, PATTERN_WORDS
from udfs.errors import SettingsError
from udfs.gme import Row
from udfs.gme.images import decode_image
from udfs.gme.patches import image_patches
from udfs.training import pictures
from udfs.training.pictures import DrawnPictures, flip_patches, train_combinations
from udfs.training.spec import DrawnSpec

SPEC = DrawnSpec(cache="", views=3)
KNOWN = train_combinations(SPEC)
EMPTY = DrawnPictures(np.zeros((1, 16, 3, 14, 14), np.uint8), (4, 4))


@pytest.fixture(scope="module")
def drawn(preparer):
    patches = np.zeros((len(KNOWN) * SPEC.views, 16, 3, 14, 14), np.uint8)
    patches += np.arange(len(patches), dtype=np.uint8)[:, None, None, None, None]
    return DrawnPairs(SPEC, preparer, pictures=DrawnPictures(patches, (4, 4)), batch=16, seed=0)


def shown(item):
    return KNOWN[item.picture // SPEC.views]


def test_no_held_out_combination_is_trained_on():
    assert not set(KNOWN) & held_out()
    assert len(KNOWN) == 1152 - 180


def test_steps_repeat_and_differ(drawn):
    assert drawn.plan(4).items == drawn.plan(4).items
    assert drawn.plan(4).items != drawn.plan(5).items


def names(combination):
    return (
        COLOUR_WORDS[combination.colour],
        KIND_WORDS[combination.kind],
        [word for words in PATTERN_WORDS[combination.pattern] for word in words],
    )


def test_every_query_asks_for_its_target(drawn):
    told = 0
    for step in range(20):
        plan = drawn.plan(step)
        for term in plan.terms:
            for query, target in zip(term.queries, term.targets, strict=True):
                asked, wanted = plan.items[query], plan.items[target]
                told += asked.instruction in INSTRUCTIONS.values()
                assert wanted.instruction is None or term.direction == "i2t"
                if term.direction == "t2i":
                    text = asked.text.lower()
                    assert all(any(w in text for w in words) for words in names(shown(wanted)))
                elif term.direction == "i2i":
                    assert shown(asked) == shown(wanted)
                    assert asked.picture != wanted.picture
                elif term.direction == "it2i":
                    changed = [
                        a
                        for a in ATTRIBUTES
                        if getattr(shown(asked), a) != getattr(shown(wanted), a)
                    ]
                    assert len(changed) == 1
                    number = ("colour", "kind", "pattern").index(changed[0])
                    assert any(word in asked.text for word in names(shown(wanted))[number])
    assert told > 100


def alike(plan, drawn_batch=16):
    """Mean share of a step's combinations that differ from one of them in at most one attribute."""
    chosen = [shown(item) for item in plan.items[:drawn_batch]]
    near = [sum(len(set(a) & set(b)) == 2 for b in chosen) for a in chosen]
    return np.mean(near) / drawn_batch


def test_hard_negatives_bring_near_neighbours_into_every_second_step(preparer, drawn):
    plain = DrawnPairs(SPEC, preparer, pictures=EMPTY, batch=16, seed=0, hard_negatives=False)
    shares = np.array(
        [[alike(source.plan(step)) for step in range(60)] for source in (plain, drawn)]
    )
    plain_share, mixed_share = shares.mean(axis=1)
    assert plain_share < 0.045  # 31 of 971 others differ in one attribute
    assert mixed_share > 1.7 * plain_share
    for plan in map(drawn.plan, range(20)):
        assert len({shown(item) for item in plan.items[:16]}) == 16


def test_some_documents_have_text_of_their_own_product(drawn):
    documents = [item for step in range(60) for item in drawn.plan(step).items[:16]]
    titled = [item for item in documents if item.text]
    assert 0.15 < len(titled) / len(documents) < 0.25
    for item in titled:
        said = item.text.lower()
        assert all(any(word in said for word in words) for words in names(shown(item)))
    assert not any(item.is_query for item in documents)


def test_a_composed_querys_source_is_its_hard_negative(drawn):
    plan = drawn.plan(0)
    term = next(t for t in plan.terms if t.direction == "it2i")
    for query in term.queries:
        asked = plan.items[query]
        source = next(
            c
            for c in term.candidates
            if plan.items[c].picture == asked.picture and plan.items[c].flipped == asked.flipped
        )
        assert plan.ids[source] != plan.ids[query]
        assert KNOWN[plan.ids[source] // SPEC.views] == shown(asked)


@pytest.mark.parametrize(
    ("directions", "terms", "rows"),
    [
        (("t2i",), {"t2i": 16, "i2t": 16}, 32),
        (("i2i",), {"i2i": 16}, 32),
        (("it2i",), {"it2i": 16}, 48),  # with the sources, which are hard negatives
        (("i2i", "t2i"), {"t2i": 16, "i2t": 16, "i2i": 16}, 48),
        (("it2i", "i2i"), {"i2i": 8, "it2i": 8}, 40),
    ],
)
def test_chosen_directions_have_all_pairs_and_no_row_in_vain(preparer, directions, terms, rows):
    alone = DrawnPairs(
        SPEC, preparer, pictures=EMPTY, batch=16, seed=0, directions=directions
    ).plan(0)
    assert {term.direction: len(term.queries) for term in alone.terms} == terms
    assert len(alone.items) == len(alone.ids) == rows
    used = [np.concatenate([t.queries, t.targets, t.candidates]) for t in alone.terms]
    assert set(np.concatenate(used)) == set(range(rows))
    for term in alone.terms:
        wanted = [alone.ids[target] for target in term.targets]
        assert len(set(wanted)) == len(wanted)
        for query, target in zip(term.queries, term.targets, strict=True):
            asked, shows = alone.items[query], alone.items[target]
            if term.direction == "i2i":
                assert shown(asked) == shown(shows) and asked.picture != shows.picture
            if term.direction == "it2i":
                assert alone.ids[query] == -1 - alone.ids[target]
                assert sum(a != b for a, b in zip(shown(asked), shown(shows), strict=True)) == 1


def test_a_direction_that_drawn_pairs_have_not_is_an_error(preparer):
    with pytest.raises(SettingsError, match="i2t"):
        DrawnPairs(SPEC, preparer, pictures=EMPTY, batch=16, seed=0, directions=("i2t",))


def test_a_small_share_still_has_changes_to_ask_for(preparer):
    """Of an eighth of the combinations some have no neighbour left: they are not asked for."""
    small = DrawnPairs(SPEC, preparer, pictures=EMPTY, batch=64, seed=0, share=0.125)
    shares = [
        DrawnPairs(SPEC, preparer, pictures=EMPTY, batch=64, seed=0, share=share)._known
        for share in (0.125, 0.25, 0.5, 1.0)
    ]
    assert [len(share) for share in shares] == [122, 243, 486, 972]
    assert all(few < more for few, more in itertools.pairwise(shares))
    asked = set()
    for step in range(40):
        plan = small.plan(step)
        for item in plan.items:
            if item.picture is not None:
                asked.add(shown(item))
    assert asked <= shares[0]
    assert len(asked) > 100


def test_ids_name_what_a_row_shows(drawn):
    plan = drawn.plan(1)
    for number, item in enumerate(plan.items):
        if plan.ids[number] >= 0 and item.picture is not None:
            assert KNOWN[plan.ids[number] // SPEC.views] == shown(item)


def test_mirrored_patches_are_those_of_the_mirrored_picture():
    image = decode_image(picture("red", width=84, height=56))
    patches, grid = image_patches(image, profile=PROFILE)
    mirrored, _ = image_patches(image.transpose(0), profile=PROFILE)
    assert np.array_equal(flip_patches(patches, grid), mirrored)


def test_processes_share_the_drawing(monkeypatch, preparer, tmp_path):
    few = [Combination("mug", "red", "dots"), Combination("kite", "blue", "plain")]
    monkeypatch.setattr(pictures, "train_combinations", lambda spec: few)
    spec = DrawnSpec(cache=str(tmp_path), views=2)
    meeting = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        opened, _ = pool.map(
            lambda rank: DrawnPictures.open(
                spec, preparer, rank=rank, world=2, barrier=meeting.wait
            ),
            range(2),
        )
    for number in range(4):
        seed = f"train/0/{number % 2}"
        row = Row(image=pictures.draw_jpeg(*few[number // 2], seed=seed, size=pictures.SIZE))
        assert np.array_equal(opened.patches(number, flipped=False), preparer.prepare(row).patches)
    file = next(tmp_path.glob("*.npy"))
    before = file.stat().st_mtime_ns
    DrawnPictures.open(spec, preparer)
    assert file.stat().st_mtime_ns == before


def test_too_little_to_fill_a_batch_is_an_error(preparer):
    with pytest.raises(SettingsError, match="views"):
        DrawnPairs(DrawnSpec(cache="", views=1), preparer, pictures=EMPTY, batch=8, seed=0)


def test_evaluation_asks_for_held_out_products_with_new_pictures():
    spec = DrawnEvalSpec(combinations=5, views=2)
    corpus, tasks = draw_tasks(spec)
    again = draw_tasks(spec)[0]
    assert [row.image for row in corpus.rows] == [row.image for row in again.rows]
    assert len(corpus.rows) == len({row.image for row in corpus.rows}) == 10
    assert frozenset().union(*corpus.ids) <= {product_name(c) for c in held_out()}
    sizes = {task.name: len(task.queries) for task in tasks}
    assert sizes == {"t2i": 10, "i2i": 5, "it2i": 15}
    queries = {row.image for task in tasks for row in task.queries if row.image}
    assert not queries & {row.image for row in corpus.rows}


def test_validation_shows_nothing_of_the_report():
    """Not the products, not as a composed query's source, and no picture that training sees."""
    spec = DrawnEvalSpec(combinations=20, views=2, split="train", seed=1)
    seen = []
    drawn_jpeg = pictures.draw_jpeg
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            drawing_tasks, "draw_jpeg", lambda *c, **k: seen.append((c, k)) or drawn_jpeg(*c, **k)
        )
        corpus, tasks = draw_tasks(spec)
    assert {Combination(*c) for c, _ in seen} <= set(KNOWN)
    assert not [k["seed"] for _, k in seen if not k["seed"].startswith("eval/1/")]
    assert {task.name: len(task.queries) for task in tasks} == {"t2i": 40, "i2i": 20, "it2i": 60}
    assert all(set(task.answers) <= frozenset().union(*corpus.ids) for task in tasks)
