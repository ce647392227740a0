"""Prompts as token ids: the reference's string, the two truncations, and no way in for control tokens."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from udfs.errors import CheckpointError, RowRejected
from udfs.gme.prompts import CONTROL_TOKENS, Prompts
from udfs.gme.scratch_tokenizer import SPECIAL_TOKENS, train_tokenizer
from udfs.specs import GME, REFERENCE

TOKENIZER = train_tokenizer(["a red mug with dots", "two blue kites", "中文 naïve"] * 3, vocab=300)
PROMPTS = Prompts(TOKENIZER, profile=GME)
PLAIN = Tokenizer.from_str(TOKENIZER.to_str())  # parses control tokens, as the reference's does
CONTROL = {TOKENIZER.token_to_id(name) for name in SPECIAL_TOKENS}

pieces = st.one_of(
    st.text(max_size=12),
    st.sampled_from([*SPECIAL_TOKENS, "\n", "\n\n", " ", "<|", "im_end|>", "é"]),
)
texts = st.lists(pieces, max_size=12).map("".join)


def reference_string(text, image_tokens, system="You are a helpful assistant."):
    image = "<|vision_start|>" + "<|image_pad|>" * image_tokens + "<|vision_end|>"
    content = (image if image_tokens else "") + text
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n"
        "<|im_start|>assistant\n<|endoftext|>"
    )


def ids(text, *, prompts=PROMPTS, image_tokens=0, instruction=None, is_query=False):
    return prompts.ids(text, image_tokens=image_tokens, instruction=instruction, is_query=is_query)


def with_length(max_length, profile=GME):
    return Prompts(TOKENIZER, profile=dataclasses.replace(profile, max_length=max_length))


@settings(max_examples=300, deadline=None)
@given(text=texts, instruction=texts, image_tokens=st.sampled_from([0, 4]))
def test_text_and_instruction_cannot_inject_control_tokens(text, instruction, image_tokens):
    made = ids(text, image_tokens=image_tokens, instruction=instruction, is_query=True)
    frame = ids("", image_tokens=image_tokens)
    assert [i for i in made if i in CONTROL] == [i for i in frame if i in CONTROL]


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(max_size=60).filter(lambda s: "<|" not in s), image_tokens=st.sampled_from([0, 4])
)
def test_segments_give_the_ids_of_the_whole_string(text, image_tokens):
    whole = PLAIN.encode(reference_string(text, image_tokens), add_special_tokens=False).ids
    assert ids(text, image_tokens=image_tokens) == whole


def test_only_queries_carry_their_instruction():
    task = "Find an image that matches the given text."
    query = ids("a mug", instruction=task, is_query=True)
    assert query == PLAIN.encode(reference_string("a mug", 0, system=task)).ids
    default = PLAIN.encode(reference_string("a mug", 0)).ids
    assert ids("a mug", instruction=task, is_query=False) == default
    assert ids("a mug", is_query=True) == ids("a mug", instruction="", is_query=True) == default


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab \n中é1", max_size=300), image_tokens=st.sampled_from([0, 16]))
def test_keep_end_cuts_only_the_text(text, image_tokens):
    prompts = with_length(110)
    whole = ids(text, image_tokens=image_tokens)
    cut = ids(text, prompts=prompts, image_tokens=image_tokens)
    suffix = ids("")[-len(PROMPTS._suffix) :]
    assert len(cut) == min(len(whole), 110)
    assert cut[-len(suffix) :] == suffix
    assert cut[: -len(suffix)] == whole[: len(cut) - len(suffix)]


def test_reference_truncation_cuts_the_end_away():
    reference = with_length(110, REFERENCE)
    text = "a red mug with dots " * 40
    assert ids(text, prompts=reference) == ids(text)[:110]
    assert ids("a mug", prompts=reference) == ids("a mug")


@pytest.mark.parametrize("profile", [GME, REFERENCE])
def test_an_instruction_that_leaves_no_room_is_an_error(profile):
    prompts = with_length(110, profile)
    with pytest.raises(RowRejected, match="110") as caught:
        ids("a mug", prompts=prompts, image_tokens=16, instruction="red mug " * 200, is_query=True)
    assert caught.value.status == "instruction_too_long"


@settings(max_examples=40, deadline=None)
@given(
    block=st.text(alphabet="ab1 \n中é\u0301-", min_size=1, max_size=30), limit=st.integers(0, 40)
)
def test_the_head_of_a_long_text_is_exact(block, limit):
    text = block * (4000 // len(block))
    assert PROMPTS.head(text, limit) == PROMPTS._encode(text)[:limit]


# Merges of long runs and of periods, as large vocabularies have them: what stands behind can change a token.
RUNS = Prompts(
    train_tokenizer(
        [c * 2**n for c in "a=-_" for n in range(8)]
        + ["ababab", "abcabcabc" * 3, "aab" * 9, "ba" * 20] * 9,
        vocab=700,
    ),
    profile=GME,
)
words = st.one_of(
    st.tuples(st.text("ab=-_c", min_size=1, max_size=9), st.integers(1, 9000)).map(
        lambda pair: pair[0] * (pair[1] // len(pair[0]) + 1)
    ),
    st.tuples(st.text("abc", min_size=1, max_size=40), st.randoms(use_true_random=False)).map(
        lambda pair: "".join(pair[1].choices(pair[0], k=6000))
    ),
    st.text("ab \n=é", max_size=30),
)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(parts=st.lists(words, min_size=1, max_size=4), limit=st.integers(0, 60))
@pytest.mark.parametrize("prompts", [PROMPTS, RUNS], ids=["plain", "runs"])
def test_the_head_of_a_text_without_breaks_is_exact(prompts, parts, limit):
    text = "".join(parts)
    assert prompts.head(text, limit) == prompts._encode(text)[:limit]


class Counting:
    """A tokenizer that notes how many characters it is given."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.given = []

    def encode(self, text, **options):
        self.given.append(len(text))
        return self.tokenizer.encode(text, **options)


@pytest.mark.parametrize("prompts", [PROMPTS, RUNS], ids=["plain", "runs"])
@pytest.mark.parametrize("unit", ["a", "中", "=", "ab"])
def test_a_huge_text_without_a_break_costs_no_more_than_its_head(unit, prompts, monkeypatch):
    text = unit * (5_000_000 // len(unit))
    counting = Counting(prompts._tokenizer)
    monkeypatch.setattr(prompts, "_tokenizer", counting)
    found = ids(text, prompts=prompts)
    assert len(found) == GME.max_length
    assert sum(counting.given) < 700_000
    monkeypatch.undo()
    assert found == ids(text[:700_000], prompts=prompts)


def test_a_huge_instruction_is_tokenised_no_further_than_it_is_too_long():
    given = []
    prompts = with_length(110)
    really = prompts._encode
    prompts._encode = lambda text: given.append(len(text)) or really(text)
    with pytest.raises(RowRejected, match="instruction"):
        ids("a", prompts=prompts, instruction="x" * 5_000_000, is_query=True)
    assert sum(given) < 1000
    reference = with_length(110, REFERENCE)
    assert (
        ids("a", prompts=reference, instruction="x" * 50_000, is_query=True)
        == (
            ids(
                "a", prompts=with_length(10**6, REFERENCE), instruction="x" * 50_000, is_query=True
            )[:110]
        )
    )


def test_text_that_is_not_valid_unicode_is_still_embedded():
    assert ids("\ud800 a") == ids("\ufffd a")
    assert ids("\ud83d\ude00") == ids("😀")


def test_a_tokenizer_without_control_tokens_is_refused():
    bare = Tokenizer.from_str(TOKENIZER.to_str().replace("image_pad", "other_pad"))
    with pytest.raises(CheckpointError, match="image_pad"):
        Prompts(bare, profile=GME)


def test_config_of_another_checkpoint_is_refused(tmp_path):
    file = tmp_path / "tokenizer.json"
    TOKENIZER.save(str(file))
    with pytest.raises(CheckpointError, match="151655"):
        Prompts.load(file, config={"image_token_id": 151655}, profile=GME)
    assert set(CONTROL_TOKENS) <= set(SPECIAL_TOKENS)
