"""Settings of synthesize-pairs: passages and pictures, models and what they may cost, filters."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from jobs.settings.section import Names, Section
from udfs.errors import SettingsError
from udfs.specs import MAX_K
from udfs.synthesis.spec import DOMAINS, EndpointSpec, PriceSpec


class SynthesizeSettings(Section):
    """Training pairs from passages by a language model, or of products by their attributes."""

    passages: str = Field("", description="table of passages: Delta name or path, or a .parquet")
    id: str = Field("id", description="its column of ids")
    text: str = Field("{text}", description="template of a passage's text, as source.text")
    title: str = Field("", description="column of titles, where there is one")
    domain: str = Field("", description="column of domains; empty: the model names them")
    image: str = Field("", description="column of a passage's own picture: bytes, or a path or URI")
    image_base: str = Field(
        "", description="folder (path or URI) that relative image paths start from"
    )
    output: str = Field("", description="Delta table (name or path) of pairs to write; replaced")
    directions: Names = Field(
        default_factory=lambda: ["t2t", "t2it", "it2t", "it2it"],
        description="what is made of passages, where their pictures allow it; none: no language model is asked for "
        "queries",
    )
    instructions: dict[str, str] = Field(
        default_factory=dict, description="instruction of the queries of a direction; none: ours"
    )

    server: Literal["", "rules", "smollm2"] = Field(
        "",
        description="start a local server for the run: rules, or a small real model (for trials; url and model are its "
        "own then)",
    )
    url: str = Field(
        "", description="of the OpenAI protocol, to /v1; keys come from the environment alone"
    )
    model: str = Field("", description="name of the language model there")
    image_url: str = Field("", description="of the picture model; empty: url")
    image_model: str = Field("", description="name of the picture model there")
    key: Literal["environment", "none"] = Field(
        "environment",
        description="environment: OPENAI_API_KEY of the executors; none: the server asks for none",
    )
    structured: Literal["schema", "json", "none"] = Field(
        "schema", description="response_format; what a server does not know is left out"
    )
    temperature: float = Field(0.7, ge=0, description="of the language model")
    max_tokens: int = Field(300, ge=16, description="of one answer")
    seed: int = Field(0, description="of the models; another one asks everything anew")
    size: str = Field("512x512", description="of generated pictures")
    passage_chars: int = Field(4000, ge=100, description="of a passage that the model sees")
    answer_seconds: float = Field(120, gt=0, description="that one request may take")
    tries: int = Field(5, ge=1, description="of a request where the server is busy or fails")
    concurrency: int = Field(8, ge=1, description="requests at a time of one executor")
    requests_per_commit: int = Field(2000, ge=1, description="answers of one commit, at most")

    price_prompt: float = Field(0, ge=0, description="price of a million tokens of requests")
    price_answer: float = Field(0, ge=0, description="price of a million tokens of answers")
    price_picture: float = Field(0, ge=0, description="price of one picture")
    budget_tokens: int | None = Field(
        None, ge=1, description="tokens that a run may use; it stops before, and keeps its answers"
    )
    budget_cost: float | None = Field(None, ge=0, description="as budget_tokens, in money")
    sample: int = Field(20, ge=1, description="passages that --dry-run asks for")

    domains: Names = Field(
        default_factory=lambda: list(DOMAINS), description="that the model chooses from"
    )
    per_domain: int | None = Field(
        None, ge=1, description="passages of a domain, at most; null: all"
    )
    picture: Literal["none", "retrieve", "generate"] = Field(
        "none",
        description="where the pictures of fused queries come from: a table (by the registered embedder), or a picture "
        "model",
    )
    pictures: str = Field("", description="retrieve: table of pictures, as passages")
    pictures_id: str = Field("id", description="its column of ids")
    pictures_image: str = Field("image", description="its column of bytes, or of paths and URIs")
    pictures_caption: str = Field("", description="its column of captions, where there is one")
    match: Literal["picture", "caption"] = Field(
        "picture", description="what the name of an entity is compared with"
    )

    attributes: Names = Field(
        default_factory=list,
        description="columns whose values name a product: pairs of picture + change to the picture of a product that "
        "differs in one of them",
    )
    siblings: str = Field(
        "",
        description="column: rows with one value are siblings, whose change the language model words",
    )
    changes: int = Field(2, ge=1, le=8, description="such pairs of a row, at most")

    grounded: float = Field(
        0.5, ge=0, le=1, description="least share of an answer's words that the passage has"
    )
    duplicates: float | None = Field(
        0.8, gt=0, le=1, description="words in common from which queries are duplicates; null: any"
    )
    picture_score: float | None = Field(
        None, description="least score of an entity's picture and its caption; null: any"
    )
    consistent: int | None = Field(
        20,
        ge=1,
        le=MAX_K,
        description="a positive must be among so many best of its query, over all positives; null: not looked at",
    )

    @field_validator("url", "image_url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query:
            # Not a ValueError, which would be told with the value.
            raise SettingsError(
                "synthesize.url: settings are recorded, so give the address without user, password or query; a key "
                "goes into OPENAI_API_KEY"
            )
        return url

    def language_model(self) -> EndpointSpec:
        """How the language model is asked."""
        return EndpointSpec(
            url=self.url,
            model=self.model,
            key=self.key,
            structured=self.structured,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=self.seed,
            seconds=self.answer_seconds,
            tries=self.tries,
        )

    def picture_model(self) -> EndpointSpec:
        """How the picture model is asked."""
        return EndpointSpec(
            url=self.image_url or self.url,
            model=self.image_model,
            key=self.key,
            seed=self.seed,
            size=self.size,
            seconds=self.answer_seconds,
            tries=self.tries,
            max_bytes=48_000_000,
        )

    def prices(self) -> PriceSpec:
        """What the models cost."""
        return PriceSpec(self.price_prompt, self.price_answer, self.price_picture)
