"""Texts of the catalogue name what the picture shows."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.drawing import COLOURS, COMBINATIONS, KINDS, PATTERN_NAMES
from udfs.drawing.words import (
    COLOUR_WORDS,
    KIND_WORDS,
    PATTERN_WORDS,
    change_text,
    description,
    query_text,
    title,
)


def named(text, words):
    return any(word in text.lower() for word in words)


@given(st.sampled_from(COMBINATIONS), st.integers(0, 2**32))
def test_every_text_names_kind_colour_and_pattern(combination, seed):
    rng = random.Random(seed)
    for text in (f(*combination, rng=rng) for f in (title, description, query_text)):
        assert named(text, KIND_WORDS[combination.kind])
        assert named(text, COLOUR_WORDS[combination.colour])
        assert named(text, sum(PATTERN_WORDS[combination.pattern], ()))
        assert (
            "{" not in text
            and " a a" not in text
            and " a e" not in text
            and " a o" not in text
            and " a u" not in text
        )


def test_synonyms_belong_to_one_attribute_only():
    for table in (KIND_WORDS, COLOUR_WORDS, {k: sum(v, ()) for k, v in PATTERN_WORDS.items()}):
        words = [w for synonyms in table.values() for w in synonyms]
        assert len(words) == len(set(words))
    assert (set(KIND_WORDS), set(COLOUR_WORDS), set(PATTERN_WORDS)) == (
        set(KINDS),
        set(COLOURS),
        set(PATTERN_NAMES),
    )


@pytest.mark.parametrize(
    ("attribute", "values"), [("kind", KINDS), ("colour", COLOURS), ("pattern", PATTERN_NAMES)]
)
def test_change_texts_name_the_new_value(attribute, values):
    for value in values:
        words = {"kind": KIND_WORDS, "colour": COLOUR_WORDS}.get(attribute, {}).get(value)
        words = words or sum(PATTERN_WORDS[value], ())
        for seed in range(8):
            assert named(change_text(attribute, value, rng=random.Random(seed)), words)


def test_change_texts_read_as_in_the_readme():
    texts = {change_text("colour", "red", rng=random.Random(s)) for s in range(60)}
    assert "the same but in crimson" in texts
    assert "a matching mug" in {change_text("kind", "mug", rng=random.Random(s)) for s in range(60)}
    assert "an umbrella in the same style" in {
        change_text("kind", "umbrella", rng=random.Random(s)) for s in range(60)
    }
