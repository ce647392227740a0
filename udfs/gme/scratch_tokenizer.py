"""Train the byte-level BPE tokenizer of a scratch checkpoint: Qwen2's rules, its special tokens, a small vocabulary."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# In the order of their ids, which follow the BPE entries as in the published tokenizers.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SMALLEST_VOCAB = 256 + len(SPECIAL_TOKENS)  # every byte must have an entry
# Qwen2's pre-tokenizer pattern, as in its tokenizer.json.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Part of every prompt, so that a small vocabulary spends few tokens on them.
_PROMPT_WORDS = ["system\n", "user\n", "assistant\n", "You are a helpful assistant."]


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> Tokenizer:
    """A tokenizer of at most `vocab` entries, special tokens included; the same texts give the same tokenizer."""
    if vocab < SMALLEST_VOCAB:
        raise ValueError(f"vocab {vocab} is too small: all bytes and tokens take {SMALLEST_VOCAB}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL_TOKENS),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([*_PROMPT_WORDS * 2, *texts], trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer
