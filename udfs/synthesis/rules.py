"""Rules that an answer must pass before anything is made of it; each says in a word what it found.

No rule asks a model. What the rules cannot see, the consistency of query and positive, the embedder judges.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.strings import python_rows
from udfs.synthesis.prompts import example_texts
from udfs.synthesis.spec import JudgeSpec, Step

JUDGE_INPUT = Columns(
    "passage_id string, request_id string, title string, text string, query string, status string, error string, "
    "fields string"
)
# The fields of an answer, or the reason why it is left out; `detail` is for people.
JUDGED = Columns(
    "passage_id string, request_id string, reason string, detail string, query string, answer string, "
    "entity string, domain string, caption string, change string"
)


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"\w+", re.ASCII)
_UNSPACED = ("CJK", "THAI", "LAO", "KHMER", "MYANMAR")
_FOREIGN = re.compile(r"https?://|www\.|[<>{}\[\]\\`]|\||[\x00-\x1f\x7f]", re.IGNORECASE)
_POINTS = re.compile(r"\b(this|these|that|those|shown|pictured|depicted)\b", re.IGNORECASE)
_NOT_DRAWN = re.compile(
    r"\b(species|genus|subspecies|taxon\w*|phylum|endemic|latitude|longitude|native to|found in|"
    r"located in|region of)\b",
    re.IGNORECASE,
)
# Words of a name that a pointing query may use all the same: kinds of things, which the prompt asks for.
_KINDS = _set(
    "animal bird fish cat dog insect plant tree flower fruit vegetable person man woman artist building house church "
    "bridge tower place city town river mountain island artwork painting statue vehicle car boat ship aircraft food drink "
    "dish product item thing object tool machine device furniture instrument document map photo picture image poster "
    "event clothing garment shirt shoe"
)
# The commonest short words of some languages: enough to tell a sentence of one from a sentence of another.
_FUNCTION_WORDS: dict[str, frozenset[str]] = {
    "en": _set(
        "the of and to in is was that for with what which how when does did are this it by from"
    ),
    "de": _set(
        "der die das und ist nicht ein eine von zu den mit wie was welche wann wird im auf für"
    ),
    "fr": _set(
        "le la les des et est une un du que qui dans pour quelle quel comment sur avec au ce"
    ),
    "es": _set("el los las y es una del que en por para qué cuál cómo con se al su está"),
    "it": _set("il lo gli e è una del della che di per quale come con nel sono si al dei"),
    "pt": _set("o os as e é uma do da que em por para qual como com no na dos está"),
    "nl": _set("de het een en is van in dat op te voor met wat welke hoe wordt niet zijn bij"),
    "sv": _set("den det en ett och är av som på till för med vad vilken hur inte från om"),
}
_LEAST_SURE = 2  # function words more than of the next language
_QUERY_WORDS, _QUERY_CHARS = (3, 40), 300
_COPIED_WORDS = 6  # so many of a passage in a row are its own sentence; fewer may be a name
_CHANGE_WORDS, _CAPTION_WORDS, _ENTITY_WORDS, _ANSWER_WORDS = (2, 20), (4, 60), (1, 8), (1, 80)


class Broken(NamedTuple):
    """The rule that an answer breaks, and how."""

    reason: str
    detail: str


@gives(JUDGED)
def judge_batches(
    batches: Iterator[pa.RecordBatch], *, spec: JudgeSpec
) -> Iterator[pa.RecordBatch]:
    """The JUDGED row of each JUDGE_INPUT row."""
    for batch in batches:
        rows = []
        for row in python_rows(batch):
            fields: dict[str, str] = json.loads(row["fields"]) if row["fields"] else {}
            if row["status"] != "ok":
                broken: Broken | None = Broken(row["status"] or "no_answer", row["error"] or "")
            else:
                broken = judge_answer(spec.step, fields, row, grounded=spec.grounded)
            made = {"passage_id": row["passage_id"], "request_id": row["request_id"], **fields}
            if broken is not None:
                made |= {"reason": broken.reason, "detail": broken.detail[:500]}
            rows.append(made)
        yield pa.RecordBatch.from_pylist(rows, schema=JUDGED.arrow)


def judge_answer(
    step: Step, fields: dict[str, str], passage: dict[str, Any], *, grounded: float
) -> Broken | None:
    """The first rule that the answer breaks, or None. `passage`: title, text, and the query where there is one."""
    shown = " ".join(str(passage[name]) for name in ("title", "text") if passage.get(name))
    return _RULES[step](fields, shown, str(passage.get("query") or ""), grounded)


def _judge_query(fields: dict[str, str], shown: str, _: str, grounded: float) -> Broken | None:
    query, answer = fields["query"], fields["answer"]
    found = _judge_sentence(query, shown, _QUERY_WORDS) or _length(answer, _ANSWER_WORDS, "answer")
    if found:
        return found
    said = _content_words(answer)
    if set(said) <= set(words(query)):
        return Broken("answers_itself", f"{answer!r} stands in: {query}")
    copied = " ".join(words(query)[1:])  # whatever article it begins with
    if copied.count(" ") >= _COPIED_WORDS - 1 and f" {copied} " in f" {' '.join(words(shown))} ":
        return Broken("copies_passage", query)
    share = len([word for word in said if word in set(words(shown))]) / max(1, len(said))
    if said and share < grounded:
        return Broken("answer_not_in_passage", f"{share:.0%} of its words stand there: {answer}")
    return None


def _judge_entity(fields: dict[str, str], shown: str, asked: str, _: float) -> Broken | None:
    entity, query = fields["entity"], fields["query"]
    found = _judge_sentence(query, shown, _QUERY_WORDS) or _length(entity, _ENTITY_WORDS, "entity")
    if found:
        return found
    if not set(words(entity)) & set(words(f"{shown} {asked}")):
        return Broken("entity_not_in_passage", entity)
    if named := names_entity(query, entity):
        return Broken("names_entity", f"{named!r} in: {query}")
    if not _POINTS.search(query):
        return Broken("needs_no_picture", query)
    return None


def _judge_caption(fields: dict[str, str], shown: str, _: str, __: float) -> Broken | None:
    caption = fields["caption"]
    found = _judge_sentence(caption, shown, _CAPTION_WORDS)
    if found:
        return found
    if undrawn := _NOT_DRAWN.search(caption):
        return Broken("cannot_be_drawn", f"{undrawn[0]!r} in: {caption}")
    return None


def _judge_change(fields: dict[str, str], shown: str, _: str, __: float) -> Broken | None:
    return _judge_sentence(fields["change"], shown, _CHANGE_WORDS)


_RULES: dict[str, Callable[[dict[str, str], str, str, float], Broken | None]] = {
    "query": _judge_query,
    "entity": _judge_entity,
    "caption": _judge_caption,
    "change": _judge_change,
}


def _judge_sentence(text: str, shown: str, bounds: tuple[int, int]) -> Broken | None:
    """Rules for everything that becomes a query or a caption."""
    if found := _length(text, bounds, "text"):
        return found
    if len(text) > _QUERY_CHARS:
        return Broken("length", f"{len(text)} characters, {_QUERY_CHARS} at most")
    if foreign := _FOREIGN.search(text):
        return Broken("markup", f"{foreign[0]!r} in: {text}")
    if text.lower() in example_texts() and text.lower() not in shown.lower():
        return Broken("copies_example", text)
    return _same_language(text, shown)


def _length(text: str, bounds: tuple[int, int], what: str) -> Broken | None:
    count = len(words(text)) or (1 if text.strip() else 0)
    if _is_unspaced(text):  # of scripts that put no blanks between words
        count = max(count, len(text) // 2)
    low, high = bounds
    if low <= count <= high:
        return None
    return Broken("length", f"{what} has {count} words, {low} to {high} are asked for: {text}")


def names_entity(query: str, entity: str) -> str | None:
    """The word of the entity that a query uses: any but short ones and kinds of things; None where it uses none."""
    asked = [_stem(word) for word in words(query)]
    named = [w for w in words(entity) if len(w) > 3 or len(words(entity)) == 1]
    for word in named:
        if word not in _KINDS and _stem(word) in asked:
            return word
    # An entity that is nothing but kinds of things is named where the whole of it stands there.
    whole = " ".join(_stem(word) for word in words(entity))
    specific = [word for word in named if word not in _KINDS]
    if not specific and len(words(entity)) > 1 and whole in " ".join(asked):
        return entity
    return None


def words(text: str) -> list[str]:
    """Words in lower case, composed as Unicode's NFKC says; vowel signs and other marks are parts of words."""
    composed = unicodedata.normalize("NFKC", text).lower()
    if composed.isascii():
        return _WORD.findall(composed)
    dotless = composed.replace("i\u0307", "i")  # what a capital İ is in lower case
    return "".join(letter if _in_word(letter) else " " for letter in dotless).split()


def _in_word(letter: str) -> bool:
    """Python's \\w knows no marks, and would cut a word of Hindi or Arabic at each."""
    return letter.isalnum() or letter == "_" or unicodedata.category(letter).startswith("M")


def _content_words(text: str) -> list[str]:
    return [word for word in words(text) if word not in _FUNCTION_WORDS["en"]] or words(text)


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _same_language(text: str, shown: str) -> Broken | None:
    """Whether the letters are of a script, and the short words of a language, that the passage has too."""
    scripts, known = _scripts(text), _scripts(shown)
    strange = sum(count for name, count in scripts.items() if name not in known)
    if known and strange > 0.2 * sum(scripts.values()):
        return Broken("other_language", f"letters that the passage has not: {text}")
    one, other = _language(text), _language(shown)
    if one and other and one != other:
        return Broken("other_language", f"{one} of a passage in {other}: {text}")
    return None


def _scripts(text: str) -> Counter[str]:
    names = (unicodedata.name(letter, "?").split(" ")[0] for letter in text if letter.isalpha())
    return Counter("CJK" if name in {"CJK", "HIRAGANA", "KATAKANA"} else name for name in names)


def _language(text: str) -> str | None:
    """By function words; None where two languages are about as likely, or nothing is known of it."""
    found = Counter(words(text))
    scores = sorted(
        ((sum(found[w] for w in known), name) for name, known in _FUNCTION_WORDS.items()),
        reverse=True,
    )
    (best, name), (second, _) = scores[0], scores[1]
    return name if best >= second + _LEAST_SURE else None


def _is_unspaced(text: str) -> bool:
    scripts = _scripts(text)
    return sum(scripts[name] for name in _UNSPACED) > 0.5 * max(1, sum(scripts.values()))
