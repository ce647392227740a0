"""Prompts as token ids: the reference's string, the two truncations, and no way in for control tokens."""

import dataclasses

import pytest
from hypothesis import given, settings
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
