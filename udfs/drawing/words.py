"""Template titles, descriptions and change texts of the drawn catalogue, with synonyms."""

from __future__ import annotations

import random
from typing import Literal

KIND_WORDS: dict[str, tuple[str, ...]] = {
    "mug": ("mug", "coffee mug", "cup"),
    "t-shirt": ("t-shirt", "tee", "short-sleeved shirt"),
    "shoe": ("shoe", "sneaker", "trainer"),
    "lamp": ("lamp", "table lamp", "bedside lamp"),
    "chair": ("chair", "dining chair", "side chair"),
    "kite": ("kite", "diamond kite", "toy kite"),
    "hat": ("hat", "brimmed hat", "fedora"),
    "bag": ("bag", "handbag", "purse"),
    "clock": ("clock", "alarm clock", "bedside clock"),
    "umbrella": ("umbrella", "rain umbrella", "brolly"),
    "boat": ("boat", "sailing boat", "sailboat"),
    "car": ("car", "toy car", "automobile"),
    "bottle": ("bottle", "water bottle", "flask"),
    "book": ("book", "notebook", "journal"),
    "guitar": ("guitar", "acoustic guitar", "six-string guitar"),
    "house": ("house", "doll's house", "cottage"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "lemon"),
    "green": ("green", "emerald"),
    "teal": ("teal", "turquoise"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "brown": ("brown", "chocolate"),
    "grey": ("grey", "ash"),
    "black": ("black", "jet black"),
    "white": ("white", "snow white"),
}
# pattern: (adjectives before the noun, phrases after it)
PATTERN_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "plain": (("plain", "solid"), ("in one colour", "without pattern")),
    "stripes": (("striped", "banded"), ("with stripes", "with bands")),
    "dots": (("dotted", "polka dot"), ("with dots", "with polka dots")),
    "checks": (("checked", "chequered"), ("with checks", "with a chessboard pattern")),
    "zigzag": (("zigzag", "chevron"), ("with a zigzag", "with chevrons")),
    "stars": (("starry", "star-print"), ("with stars", "with a star print")),
}
_MATERIALS: dict[str, tuple[str, ...]] = {
    "mug": ("glazed stoneware", "porcelain", "enamelled steel"),
    "t-shirt": ("organic cotton", "a linen blend", "soft jersey"),
    "shoe": ("canvas", "recycled mesh", "suede"),
    "lamp": ("linen and steel", "paper and brass", "cotton and oak"),
    "chair": ("beech and wool", "oak and cotton", "ash and felt"),
    "kite": ("ripstop nylon", "polyester", "waxed silk"),
    "hat": ("wool felt", "paper straw", "cotton twill"),
    "bag": ("vegan leather", "waxed cotton", "heavy canvas"),
    "clock": ("lacquered steel", "painted tin", "brass"),
    "umbrella": ("pongee and beech", "recycled polyester", "nylon and maple"),
    "boat": ("painted pine", "balsa and cotton", "beech"),
    "car": ("die-cast metal", "painted birch", "tin"),
    "bottle": ("stainless steel", "glass", "aluminium"),
    "book": ("bound linen", "recycled paper", "cloth and card"),
    "guitar": ("spruce and mahogany", "cedar", "maple"),
    "house": ("birch plywood", "painted pine", "heavy card"),
}
_TITLES = (
    "{colour} {adjective} {kind}",
    "{adjective} {kind} in {colour}",
    "{colour} {kind} {phrase}",
    "{kind} {phrase}, {colour}",
)
_DESCRIPTIONS = (
    "A {adjective} {kind} in {colour}, made of {material}.",
    "This {colour} {kind} {phrase} is made of {material}.",
    "{material}, {colour}: a {kind} {phrase}.",
)
_NOTES = (
    "Ships in two days.",
    "A gift for somebody who has everything.",
    "Made in small batches.",
    "Easy to clean.",
    "Part of the spring collection.",
    "Two-year guarantee.",
)
_CHANGES: dict[str, tuple[str, ...]] = {
    "kind": ("a matching {word}", "a {word} in the same style", "the same design, but as a {word}"),
    "colour": ("the same but in {word}", "this one in {word}", "make it {word}"),
    "pattern": ("the same but {word}", "this one, but {word}", "the same product, {word}"),
}


def title(kind: str, colour: str, pattern: str, *, rng: random.Random) -> str:
    """A product title that names all three attributes, such as "Crimson striped mug"."""
    return _capital(_fill(rng.choice(_TITLES), kind, colour, pattern, rng))


def description(kind: str, colour: str, pattern: str, *, rng: random.Random) -> str:
    """One sentence that names all three attributes, and one that names none."""
    return f"{_capital(_fill(rng.choice(_DESCRIPTIONS), kind, colour, pattern, rng))} {rng.choice(_NOTES)}"


def query_text(kind: str, colour: str, pattern: str, *, rng: random.Random) -> str:
    """What somebody who looks for the product would type: a title in lower case."""
    return _fill(rng.choice(_TITLES), kind, colour, pattern, rng)


def change_text(
    attribute: Literal["kind", "colour", "pattern"], value: str, *, rng: random.Random
) -> str:
    """What to change about a shown product: `change_text("colour", "red", rng=…)` → "the same but in crimson"."""
    words = {
        "kind": lambda: KIND_WORDS[value],
        "colour": lambda: COLOUR_WORDS[value],
        "pattern": lambda: (*PATTERN_WORDS[value][0], *PATTERN_WORDS[value][1]),
    }[attribute]()
    return _articles(rng.choice(_CHANGES[attribute]).format(word=rng.choice(words)))


def _fill(template: str, kind: str, colour: str, pattern: str, rng: random.Random) -> str:
    adjectives, phrases = PATTERN_WORDS[pattern]
    text = template.format(
        kind=rng.choice(KIND_WORDS[kind]),
        colour=rng.choice(COLOUR_WORDS[colour]),
        adjective=rng.choice(adjectives),
        phrase=rng.choice(phrases),
        material=rng.choice(_MATERIALS[kind]),
    )
    return _articles(text)


def _articles(text: str) -> str:
    """ "a" before a vowel becomes "an"."""
    words = text.split(" ")
    for i, word in enumerate(words[:-1]):
        if word in ("a", "A") and words[i + 1][0] in "aeiou":
            words[i] = word + "n"
    return " ".join(words)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
