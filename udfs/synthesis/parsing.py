"""From what a model says to the fields that were asked for, or why there are none."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from udfs.synthesis.prompts import FIELDS
from udfs.synthesis.replies import WrongAnswer
from udfs.synthesis.spec import Step

MAX_FIELD = 2000  # characters
_FENCE = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.DOTALL | re.IGNORECASE)
_TRAILING_COMMA = re.compile(r",\s*([}\]])")
_REFUSAL = re.compile(
    r"^\W*(?:i(?:'m| am) (?:sorry|unable|not able)|sorry\b|i (?:can(?:no|')t|cannot|won't)|as an ai\b|unfortunately, i\b)",
    re.IGNORECASE,
)
_STARTS = 50  # opening braces that are tried


def parse_answer(text: str, step: Step, *, domains: tuple[str, ...] = ()) -> dict[str, str]:
    """The fields of `step` in an answer: of the object alone, in a fence, or with prose around it.

    Fields that were not asked for are left out, trailing commas and Python's quotes are forgiven. An object that ends
    early is not completed: its last value may be a part. Raises WrongAnswer.
    """
    bare = text.strip().removeprefix("\ufeff")
    if not bare:
        raise WrongAnswer("empty", "the answer was empty")
    found = _objects(bare)
    wanted = FIELDS[step]
    for answer in found:
        if set(wanted) <= set(answer):
            return {name: _field(answer[name], name, domains) for name in wanted}
    if found:
        missing = [name for name in wanted if name not in found[0]]
        raise WrongAnswer(
            "wrong_schema",
            f"the object has no field {', '.join(missing)} beside {list(found[0])[:8]}",
        )
    if _REFUSAL.search(bare):
        raise WrongAnswer("refused", "it was a refusal")
    if "{" in bare:
        raise WrongAnswer("cut", "the object was not whole, or no JSON")
    raise WrongAnswer("no_json", "it had no JSON object")


def _objects(text: str) -> list[dict[str, Any]]:
    """Whole objects in a text, outermost ones, in their order."""
    for candidate in (text, *_FENCE.findall(text)):
        if (found := _loads(candidate)) is not None:
            return [found]
    found_in: list[dict[str, Any]] = []
    decoder, at = json.JSONDecoder(strict=False), 0
    for _ in range(_STARTS):
        at = text.find("{", at)
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            closed = _closing(text, at)
            if closed and (forgiven := _loads(text[at:closed])) is not None:
                found_in.append(forgiven)
                at = closed
            else:
                at += 1
            continue
        if isinstance(value, dict):
            found_in.append(value)
        at = end
    return found_in


def _loads(text: str) -> dict[str, Any] | None:
    """An object from JSON, or from what people and models write for it."""
    bare = text.strip()
    for tried in (bare, _TRAILING_COMMA.sub(r"\1", bare)):
        try:
            value = json.loads(tried, strict=False)
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else None
    if bare.startswith("{") and bare.endswith("}") and len(bare) <= MAX_FIELD:
        try:
            value = ast.literal_eval(bare)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
        return value if isinstance(value, dict) else None
    return None


def _closing(text: str, start: int) -> int | None:
    """Where the brace at `start` is closed, by counting; None where it is not."""
    depth = 0
    for at in range(start, min(len(text), start + 4 * MAX_FIELD)):
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return at + 1
    return None


def _field(value: Any, name: str, domains: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise WrongAnswer("wrong_schema", f"{name} must be a string, not {type(value).__name__}")
    text = " ".join(value.split())
    if not text:
        raise WrongAnswer("wrong_schema", f"{name} must not be empty")
    if len(text) > MAX_FIELD:
        raise WrongAnswer("wrong_schema", f"{name} has {len(text)} characters, {MAX_FIELD} at most")
    if name == "domain" and domains:
        text = text.lower()
        if text not in {domain.lower() for domain in domains}:
            raise WrongAnswer("wrong_schema", f"domain must be one of {', '.join(domains)}")
    return text
