"""The drawn catalogue as training data: pictures, texts, second views and changes of its train combinations."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from udfs.drawing import Combination
from udfs.drawing.tasks import ATTRIBUTES, VALUES, Attribute
from udfs.drawing.words import change_text, description, query_text, title
from udfs.errors import SettingsError
from udfs.gme.prepare import Prepared, Row, RowPreparer
from udfs.training.pictures import DrawnPictures, train_combinations
from udfs.training.plan import Plan, Term
from udfs.training.spec import Direction, DrawnSpec

INSTRUCTIONS = {
    "t2i": "Find an image that matches the given text.",  # the model card's
    "i2i": "Find an image of the same product.",
    "it2i": "Find an image of the product after the change that the text asks for.",
}
_TITLED = 0.2  # share of documents that have text too
_FEW: dict[Attribute, int] = {"kind": 5, "colour": 6, "pattern": 4}  # 120 combinations
Part = tuple[int, int]  # from and to, of a step's combinations
_LEAST_VIEWS = 2  # a query must not be its own answer


@dataclass(frozen=True)
class DrawnItem:
    """A row of a step: text, or a picture of the cache, or both."""

    text: str | None = None
    picture: int | None = None
    flipped: bool = False
    instruction: str | None = None
    is_query: bool = False


class DrawnPairs:
    """Steps of `batch` different combinations, each drawn from (seed, step).

    Rows: a picture (a few with its text) and a text of every combination; for half of them another picture as a
    query; for the rest a picture one attribute away with the text that asks for the change. That source picture also
    stands among the candidates: it is the hard negative of its own query, which must not find what it was given.

    With `directions`, no row is there that none of them needs; where one of i2i and it2i is left out, the other has
    all combinations. t2i trains both ways, text to picture and back.
    """

    def __init__(
        self,
        spec: DrawnSpec,
        preparer: RowPreparer,
        *,
        pictures: DrawnPictures,
        batch: int,
        seed: int,
        instructions: bool = True,
        hard_negatives: bool = True,
        share: float = 1.0,
        directions: tuple[Direction, ...] = (),
    ) -> None:
        self._spec = spec
        self._preparer = preparer
        self._pictures = pictures
        self._batch = batch
        self._seed = seed
        self._instructions = instructions
        self._hard_negatives = hard_negatives
        self._parts = _parts(batch, directions)
        everything = train_combinations(spec)
        self._first = {c: number * spec.views for number, c in enumerate(everything)}
        order = random.Random(f"share/{seed}").sample(everything, len(everything))
        known = frozenset(order[: round(share * len(order))])
        # Where few are left, some have none that differs in one attribute: no change leads to them.
        self._combinations = [c for c in order if c in known and _neighbours(c, known)]
        self._known = known
        if spec.views < _LEAST_VIEWS or not 2 <= batch <= len(self._combinations):
            raise SettingsError(
                f"{spec.views} views of {len(self._combinations)} combinations do not fill a batch of {batch}: "
                f"at least {_LEAST_VIEWS} views are needed, and 2 to all combinations in a batch"
            )

    def plan(self, step: int) -> Plan:
        """Documents, texts, second views, composed queries and their sources, in this order."""
        rng = random.Random(f"drawn/{self._seed}/{step}")
        chosen = self._chosen(rng)
        told = {name: self._instruction(name, rng) for name in INSTRUCTIONS}
        views = [rng.randrange(self._spec.views) for _ in chosen]
        documents = [self._document(c, v, rng) for c, v in zip(chosen, views, strict=True)]
        asked, seen, changed = (slice(*part) for part in self._parts)
        texts = [DrawnItem(_text(c, rng), None, False, told["t2i"], True) for c in chosen[asked]]
        seconds = [
            self._picture(c, self._other_view(view, rng), rng, instruction=told["i2i"], query=True)
            for c, view in zip(chosen[seen], views[seen], strict=True)
        ]
        changes = [self._change(target, rng, told["it2i"]) for target in chosen[changed]]
        composed = [query for _, query in changes]
        sources = [DrawnItem(None, q.picture, q.flipped) for q in composed]
        sources = sources if self._hard_negatives else []
        numbers = [self._first[c] for c in chosen]
        ids = [*numbers, *numbers[asked], *numbers[seen], *(-1 - n for n in numbers[changed])]
        ids += [self._first[source] for source, _ in changes][: len(sources)]
        items = [*documents, *texts, *seconds, *composed, *sources]
        terms = _terms(self._batch, self._parts, sources=len(sources))
        return Plan(items, np.array(ids, dtype=np.int64), terms)

    def prepare(self, item: DrawnItem) -> Prepared:
        """Model input of an item, by the encoder's own prompts and patches."""
        row = Row(item.text, None, item.instruction, item.is_query)
        if item.picture is None:
            return self._preparer.prepare(row)
        patches = self._pictures.patches(item.picture, flipped=item.flipped)
        return self._preparer.with_patches(row, patches, self._pictures.grid)

    def _chosen(self, rng: random.Random) -> list[Combination]:
        """A step's combinations: any, or every second time with hard negatives those of a few kinds, colours and
        patterns, so that a right answer has neighbours among the others.
        """
        shuffled = rng.sample(self._combinations, len(self._combinations))
        if self._hard_negatives and rng.random() < 0.5:
            few = {v for name, n in _FEW.items() for v in rng.sample(VALUES[name], n)}
            shuffled.sort(key=lambda combination: -len(few.intersection(combination)))
        return shuffled[: self._batch]

    def _instruction(self, direction: str, rng: random.Random) -> str | None:
        """In half of the batches, so that the model serves queries with and without one."""
        return INSTRUCTIONS[direction] if rng.random() < 0.5 and self._instructions else None

    def _document(self, combination: Combination, view: int, rng: random.Random) -> DrawnItem:
        """A candidate: a picture, with a title or description beside some, as rows of a catalogue have them."""
        picture = self._picture(combination, view, rng)
        if rng.random() >= _TITLED:
            return picture
        return replace(picture, text=rng.choice((title, description))(*combination, rng=rng))

    def _picture(
        self,
        combination: Combination,
        view: int,
        rng: random.Random,
        *,
        instruction: str | None = None,
        query: bool = False,
    ) -> DrawnItem:
        picture = self._first[combination] + view
        return DrawnItem(None, picture, rng.random() < 0.5, instruction, query)

    def _other_view(self, view: int, rng: random.Random) -> int:
        return (view + rng.randrange(1, self._spec.views)) % self._spec.views

    def _change(
        self, target: Combination, rng: random.Random, instruction: str | None
    ) -> tuple[Combination, DrawnItem]:
        """A known combination one attribute away from `target`, and the query that leads from it to `target`."""
        found = _neighbours(target, self._known)
        attribute = next(a for a in rng.sample(ATTRIBUTES, len(ATTRIBUTES)) if a in found)
        source = rng.choice(found[attribute])
        picture = self._first[source] + rng.randrange(self._spec.views)
        text = change_text(attribute, getattr(target, attribute), rng=rng)
        return source, DrawnItem(text, picture, rng.random() < 0.5, instruction, True)


def _neighbours(
    target: Combination, known: frozenset[Combination]
) -> dict[Attribute, list[Combination]]:
    """Known combinations that differ from `target` in one attribute, by the attribute, where there are any."""
    found = {}
    for attribute in ATTRIBUTES:
        others = (target._replace(**{attribute: value}) for value in VALUES[attribute])
        if kept := [other for other in others if other != target and other in known]:
            found[attribute] = kept
    return found


def _text(combination: Combination, rng: random.Random) -> str:
    return rng.choice((title, description, query_text))(*combination, rng=rng)


def _parts(batch: int, directions: tuple[Direction, ...]) -> tuple[Part, Part, Part]:
    """Which of a step's combinations are asked for by text, by another picture, by a picture and a change."""
    unknown = sorted(set(directions) - set(INSTRUCTIONS))
    if unknown:
        raise SettingsError(
            f"train.directions names {unknown}; drawn pairs have {list(INSTRUCTIONS)}"
        )
    text, image, composed = (not directions or name in directions for name in INSTRUCTIONS)
    half = batch // 2 if image and composed else batch if image else 0
    return (0, batch if text else 0), (0, half), (half, batch if composed else half)


def _terms(batch: int, parts: tuple[Part, Part, Part], *, sources: int) -> list[Term]:
    """Text to picture and back, picture to picture, and (picture + change) to picture, which is learned last and counts
    twice.
    """
    targets = [np.arange(*part) for part in parts]
    queries, start = [], batch
    for target in targets:
        queries.append(np.arange(start, start + len(target)))
        start += len(target)
    pictures = np.concatenate([np.arange(batch), np.arange(start, start + sources)])
    texts = queries[0]
    terms = [
        Term("t2i", texts, targets[0], pictures, 0.5),
        Term("i2t", targets[0], texts, texts, 0.5),
        Term("i2i", queries[1], targets[1], pictures, 0.5),
        Term("it2i", queries[2], targets[2], pictures, 1.0),
    ]
    return [term for term in terms if len(term.queries)]
