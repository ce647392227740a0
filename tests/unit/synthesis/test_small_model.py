"""Answers of a batch are those of each request alone, whatever the lengths, and an error reaches all who wait."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from udfs.synthesis.small_model import BATCH, SmallModel


class Letters:
    """A tokenizer of letters, as far as the model uses one."""

    def apply_chat_template(self, messages, **_):
        return {"input_ids": [ord(c) - 93 for c in messages[0]["content"]]}

    def decode(self, tokens, **_):
        return "".join(chr(token + 93) for token in tokens)


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=0,
        bos_token_id=1,
        initializer_range=0.5,  # or it says one token for ever
    )
    # Exact enough that padding, which changes the order of sums, changes no choice of a token.
    model = LlamaForCausalLM(config).double().eval()
    said = model.generate(torch.tensor([[5, 6, 5, 6, 7]]), max_new_tokens=12, do_sample=False)
    model.generation_config.eos_token_id = said[0].tolist()[-1]  # a token that it does say
    return model


def test_a_batch_answers_as_each_request_alone(llama):
    prompts = [("ab" * n + "xyz"[n % 3], 3 + n % 9) for n in range(1, 3 * BATCH)]
    alone = []
    for prompt, length in prompts:
        model = SmallModel(llama, Letters())
        alone.append(model.answer([{"role": "user", "content": prompt}], length))
    model, sizes = SmallModel(llama, Letters()), []
    generate = model._generate
    model._generate = lambda batch: sizes.append(len(batch)) or generate(batch)
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(
            pool.map(
                lambda asked: model.answer([{"role": "user", "content": asked[0]}], asked[1]),
                prompts,
            )
        )
    assert together == alone
    assert sum(sizes) == len(prompts) and 1 < max(sizes) <= BATCH
    assert {answer[1] for answer in alone} == {len(prompt) for prompt, _ in prompts}
    assert all(1 <= answer[2] <= length for answer, (_, length) in zip(alone, prompts, strict=True))
    # Some end of themselves, some are cut.
    assert any(answer[2] < length for answer, (_, length) in zip(alone, prompts, strict=True))


def test_an_error_reaches_who_asked_and_the_next_is_answered(llama):
    model = SmallModel(llama, Letters())
    with pytest.raises(IndexError):  # no such token
        model.answer([{"role": "user", "content": "~" * 5}], 3)
    assert model.answer([{"role": "user", "content": "abc"}], 3)[1] == 3
