"""Settings of ablate-training: which strategies are trained and compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from jobs.driver.evaluate_section import Names, listed


class AblateSettings(BaseModel):
    """Strategies of training, each a change of section train."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategies: str = Field(
        "ablations.yaml", description="YAML file of strategies: a path, or a name in conf/"
    )
    only: Names = Field(
        default_factory=list, description="names of the strategies to take; none: all"
    )
    seeds: Annotated[list[int], BeforeValidator(listed), Field(min_length=1)] = Field(
        default_factory=lambda: [0], description="every strategy is trained with each of them"
    )
    trained: str = Field(
        "", description="what `base: trained` of a strategy means; empty: train.base"
    )
    metric: str = Field("ndcg@10", description="of the table: ndcg@10, hit@1 or hit@10")
    folder: str | None = Field(
        None, description="local folder of trainings, table and plot; null: ROOT/ablations"
    )
