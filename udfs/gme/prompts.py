"""Build GME's prompt as token ids, segment by segment, so that user text can never become a control token."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from udfs.errors import CheckpointError, RowRejected
from udfs.specs import ModelProfile

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
_CHARS_PER_TOKEN = 16  # a first guess only; `Prompts.head` doubles it until the cut is exact
# Where a text has no break, the whole of it is one word to the merges. What stands behind a token can change it, but
# only from near by: a chain of merges that waits for its right neighbour needs an earlier merge at every step.
_LOOKAHEAD = 512  # tokens
_KEPT_INSTRUCTION = 4096  # characters; longer ones are tokenised each time rather than kept


class Prompts:
    """Token ids of rows, as in the GME model card's code: instruction in the system turn, image before text, pooled
    end token.
    """

    def __init__(self, tokenizer: Tokenizer, *, profile: ModelProfile) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "<|im_end|>" in a text is spelled out, not obeyed
        self._tokenizer = tokenizer
        self._profile = profile
        self.tokenizer_sha256: str | None = None  # of the file that it was read from, if any
        ids = control_ids(tokenizer)
        self.end, self._open, self._close, self._vision, self._vision_end, self.image_pad = ids
        self._user = self._encode("user\n")
        self._suffix = [self._close, *self._encode("\n"), self._open]
        self._suffix += [*self._encode("assistant\n"), self.end]
        self._system = lru_cache(maxsize=256)(self._system_turn)

    @classmethod
    def load(
        cls, tokenizer_file: Path, *, config: dict[str, Any], profile: ModelProfile
    ) -> Prompts:
        """Read `tokenizer.json`; raises `CheckpointError` where it lacks a control token or contradicts `config`."""
        try:
            data = tokenizer_file.read_bytes()
            tokenizer = Tokenizer.from_buffer(data)
        except Exception as error:  # tokenizers raises a bare Exception
            raise CheckpointError(
                f"{tokenizer_file} is not a readable tokenizer: {error}"
            ) from error
        prompts = cls(tokenizer, profile=profile)
        prompts.tokenizer_sha256 = hashlib.sha256(data).hexdigest()
        wanted = config.get("image_token_id")
        if wanted is not None and wanted != prompts.image_pad:
            raise CheckpointError(
                f"config.json says image_token_id {wanted}, but {tokenizer_file} gives <|image_pad|> "
                f"the id {prompts.image_pad}: the two files are not of one checkpoint"
            )
        return prompts

    def ids(
        self, text: str | None, *, image_tokens: int, instruction: str | None, is_query: bool
    ) -> list[int]:
        """Token ids of one row: `text` after `image_tokens` image placeholders (0: no image).

        Only queries carry an instruction; candidates, and queries without one, carry the profile's default.
        Raises `RowRejected("instruction_too_long")` where no room is left for the row itself.
        """
        task = instruction if is_query and instruction else self._profile.default_instruction
        task = _valid(task)
        kept = len(task) <= _KEPT_INSTRUCTION
        head = list(self._system(task) if kept else self._system_turn(task))
        said = _valid(text or "")
        if image_tokens:
            image = [self._vision, *[self.image_pad] * image_tokens, self._vision_end]
            head += [*self._user, *image]
        else:  # one segment: newlines that open the text merge with the one before them
            said = "user\n" + said
        if self._profile.truncation == "reference":
            return self._cut_like_reference(head, said, protected=len(head) if image_tokens else 0)
        room = self._profile.max_length - len(head) - len(self._suffix)
        least = int(bool(text)) + (0 if image_tokens else len(self._user))
        if room < least:
            raise self._too_long(len(head) + len(self._suffix) + least)
        return head + self.head(said, room) + self._suffix

    def head(self, text: str, limit: int) -> list[int]:
        """The first `limit` token ids of `text`, without tokenising much more of a long one than that.

        A prefix gives the same tokens as the whole but for its last pre-tokens; so it is long enough once the
        wanted tokens end two pre-tokens before the prefix does, or many tokens where a word does not end.
        """
        chars = _CHARS_PER_TOKEN * (limit + 64)
        while len(text) > chars:
            part = self._tokenizer.encode(text[:chars], add_special_tokens=False)
            words = [-1 if word is None else word for word in part.word_ids]
            if len(words) > limit and (limit == 0 or words[limit - 1] + 2 < words[-1]):
                return list(part.ids[:limit])
            if len(words) > limit + _LOOKAHEAD:
                return list(part.ids[:limit])
            chars *= 2
        return self._encode(text)[:limit]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _system_turn(self, instruction: str) -> tuple[int, ...]:
        # One token more than there is room for is enough to see that there is none.
        said = self.head("system\n" + instruction, self._profile.max_length + 1)
        head = [self._open, *said, self._close]
        return (*head, *self._encode("\n"), self._open)

    def _cut_like_reference(self, head: list[int], said: str, *, protected: int) -> list[int]:
        """Cut from the right at `max_length`, end token and all; the image block must survive."""
        limit = self._profile.max_length
        if protected > limit:
            raise self._too_long(protected)
        return (head + self.head(said, limit) + self._suffix)[:limit]

    def _too_long(self, needed: int) -> RowRejected:
        return RowRejected(
            "instruction_too_long",
            f"instruction, image and frame take {needed} tokens of max_length "
            f"{self._profile.max_length}: shorten the instruction, or lower max_image_tokens",
        )


def _valid(text: str) -> str:
    """`text` with lone surrogates, which UTF-8 cannot say, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def control_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids of `CONTROL_TOKENS` in that order; each must be a special token, or a text could spell it."""
    special = {
        token["content"]: token["id"]
        for token in json.loads(tokenizer.to_str())["added_tokens"]
        if token["special"]
    }
    missing = [name for name in CONTROL_TOKENS if name not in special]
    if missing:
        raise CheckpointError(
            f"the tokenizer lacks the special tokens {missing}: not a GME checkpoint"
        )
    return [special[name] for name in CONTROL_TOKENS]
