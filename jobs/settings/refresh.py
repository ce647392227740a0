"""Settings of refresh-lake: what it may cost, what a release must measure up to, how long old ones are kept."""

from __future__ import annotations

from pydantic import Field

from jobs.settings.section import Section


class PlanSettings(Section):
    """What a refresh may cost; what is not set is not limited."""

    price_per_hour: float | None = Field(
        None,
        ge=0,
        description="price of one hour of one model: of the machine, or its share, that holds it",
    )
    max_cost: float | None = Field(
        None,
        ge=0,
        description="a refresh that would cost more (upper bound) ends before the first row",
    )
    max_hours: float | None = Field(None, ge=0, description="as max_cost, in hours of one model")
    sample_rows: int = Field(
        2000, ge=2, description="pending rows whose tokens are counted to forecast those of all"
    )
    trial_rows: int = Field(
        1024,
        ge=2,
        description="of these, rows embedded to forecast the time of a model that no run has used yet on this device",
    )
    trial_seconds: float = Field(
        60, gt=0, description="seconds of the model that such a trial may take, about"
    )


class GateSettings(Section):
    """What must be measured of an index before it is released; null: is not asked for."""

    coverage: float | None = Field(
        0.95, ge=0, le=1, description="least share of the source's rows that have a vector"
    )
    recall: float | None = Field(
        0.9,
        ge=0,
        le=1,
        description="least recall at recall.k for every kind of query, by its lower 95 % bound",
    )
    quality_drop: float | None = Field(
        0.02,
        ge=0,
        le=1,
        description="how much worse than the release's a new model may be on evaluate.tasks, by the lower 95 % bound "
        "of the paired difference; nothing is compared where there are no tasks",
    )
    drift_rows: int = Field(
        4096, ge=100, description="vectors that are sampled to see how they lie, at most"
    )
    norm_error: float | None = Field(
        0.01, ge=0, description="how much the length of a vector may differ from 1"
    )
    mean_length: float | None = Field(
        0.98,
        ge=0,
        le=1,
        description="greatest length of the mean of the vectors: 1 where all point one way",
    )
    near_duplicates: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="greatest share of different contents with another one's vector, at a cosine of .999 or more",
    )
    overlap: float | None = Field(
        None,
        ge=0,
        le=1,
        description="least share of a row's ten nearest neighbours in a trial that a new model has in common with the "
        "release's; null: it is told, and nothing is asked of it",
    )
    mean_shift: float | None = Field(
        0.1,
        ge=0,
        le=2,
        description="how far the mean may lie from that of the release's vectors of the same model",
    )
    rank_drop: float | None = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the effective rank of the release's vectors that may be lost",
    )
    duplicates_rise: float | None = Field(
        0.1,
        ge=0,
        le=1,
        description="how much the share of near duplicates may be above that of the release's vectors",
    )


class RefreshSettings(Section):
    """What of a new model is tried first, and how long what was released before is kept."""

    trial: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of the source's rows that a new model embeds first, to be looked at by the gate; 0: no trial",
    )
    trial_rows: int = Field(
        2000,
        ge=1,
        description="rows of such a trial, at least; those that evaluate.tasks judge come on top. A source of less than "
        "twice as many has none",
    )
    keep_releases: int = Field(
        2,
        ge=1,
        description="indexes and vectors of so many releases stay: the newest, and those of rollbacks",
    )
    keep_days: float = Field(
        7,
        ge=0,
        description="what no kept release needs stays for so long after it was last written or released",
    )
