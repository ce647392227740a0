"""Frozen dataclasses that say which models are asked, how, and what their answers are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Step = Literal["query", "entity", "caption", "change", "picture"]

DOMAINS = (
    "animal",
    "plant",
    "person",
    "building",
    "place",
    "artwork",
    "vehicle",
    "food",
    "clothing",
    "tool",
    "furniture",
    "instrument",
    "document",
    "event",
    "other",
)


@dataclass(frozen=True)
class EndpointSpec:
    """One model behind the OpenAI protocol. `model`, `seed`, `temperature` and `max_tokens` decide what it answers.

    The key is no field: the client takes it from the environment of the process that asks.
    """

    url: str
    model: str
    key: Literal["environment", "none"] = "environment"
    structured: Literal["schema", "json", "none"] = "schema"
    temperature: float = 0.7
    max_tokens: int = 300
    seed: int = 0
    size: str = "512x512"  # of pictures
    seconds: float = 120.0  # one request
    tries: int = 5  # where the server is busy, fails or is silent
    longest_pause: float = 60.0  # between two tries, whatever Retry-After says
    max_bytes: int = 1_000_000  # of one answer


@dataclass(frozen=True)
class PriceSpec:
    """What the provider asks for: for a million tokens of requests and of answers, and for one picture."""

    prompt: float = 0.0
    answer: float = 0.0
    picture: float = 0.0

    def cost(self, prompt_tokens: int, answer_tokens: int, *, pictures: int = 0) -> float:
        """The price of so many tokens and pictures."""
        tokens = prompt_tokens * self.prompt + answer_tokens * self.answer
        return tokens / 1e6 + pictures * self.picture


@dataclass(frozen=True)
class RequestSpec:
    """What `request_batches` writes: requests of one step to one model."""

    step: Step
    endpoint: EndpointSpec
    domains: tuple[str, ...] = DOMAINS
    passage_chars: int = 4000  # of a passage that the model sees


@dataclass(frozen=True)
class AskSpec:
    """How `ask_batches` asks. `journal` and `pictures` are folders (paths or URIs) that all executors can write to."""

    endpoint: EndpointSpec
    journal: str
    pictures: str = ""
    domains: tuple[str, ...] = DOMAINS
    prices: PriceSpec = PriceSpec()
    concurrency: int = 8  # requests at a time of one executor, over all its tasks
    give_up_after: int = 16  # requests in a row that the server did not answer


@dataclass(frozen=True)
class JudgeSpec:
    """Which rules `judge_batches` holds the answers of a step to."""

    step: Step
    domains: tuple[str, ...] = DOMAINS
    grounded: float = 0.5  # least share of an answer's words that the passage has
