"""Strategies of training as data: a YAML file of changes to section train, checked before anything is trained."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.settings.conf import conf_yaml
from jobs.settings.settings import Settings
from jobs.settings.train import TrainSettings
from jobs.stages.train.job import check_training
from udfs.errors import SettingsError

_NAME = re.compile(r"^[\w.-]+$")
# Places and seeds are the ablation's own; strategies that search other queries cannot be compared.
_FIXED = {"output", "work", "seed", "drawn", "validation"}


class Strategy(BaseModel):
    """An entry of the file. `against`: the strategy it is compared with, the first that is trained where it says nothing.

    One that is `against` itself is compared with none: others are compared with it.
    `paper`: how far GME's own ablation moved by it, in points of its average.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: dict[str, Any] = Field(default_factory=dict)
    against: str | None = None
    paper: float | None = None


def load_strategies(settings: Settings) -> dict[str, Strategy]:
    """The strategies that `ablate.strategies` names and `ablate.only` keeps, in the file's order.

    Raises SettingsError for a file, a name or a change of settings that cannot be.
    """
    asked = settings.ablate
    content = conf_yaml(asked.strategies)
    entries = content.get("strategies") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise SettingsError(
            f"ablate.strategies={asked.strategies}: expected a mapping `strategies:` of names to changes"
        )
    found = {str(name): _strategy(str(name), entry) for name, entry in entries.items()}
    if unknown := sorted(set(asked.only) - set(found)):
        raise SettingsError(f"ablate.only names {unknown}; the strategies are {list(found)}")
    kept = {name: s for name, s in found.items() if not asked.only or name in asked.only}
    first = next(iter(kept))
    for name, strategy in kept.items():
        against = strategy.against or first
        if against not in kept:
            raise SettingsError(
                f"strategy {name} is compared with {against}, which is not among {list(kept)}"
            )
        kept[name] = strategy.model_copy(update={"against": None if against == name else against})
        check_training(strategy_settings(settings, name, strategy, seed=0))
    return kept


def strategy_settings(
    settings: Settings, name: str, strategy: Strategy, *, seed: int
) -> TrainSettings:
    """Section train as a strategy changes it. Raises SettingsError."""
    changes = dict(strategy.train)
    if changes.get("base") == "trained":
        changes["base"] = settings.ablate.trained or settings.train.base
        if changes["base"] == "scratch":
            raise SettingsError(
                f"strategy {name} starts from a trained checkpoint: give one as ablate.trained, or leave it out with "
                "ablate.only"
            )
    places = {"output": "", "work": None, "seed": seed}
    try:
        return TrainSettings.model_validate(settings.train.model_dump() | places | changes)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"strategy {name}: train.{key}: {first['msg']}") from None


def _strategy(name: str, entry: Any) -> Strategy:
    if not _NAME.match(name):
        raise SettingsError(f"strategy {name!r}: a name has letters, digits and _ . - only")
    try:
        strategy = Strategy.model_validate(entry or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"strategy {name}: {key}: {first['msg']}") from None
    if fixed := sorted(_FIXED & set(strategy.train)):
        raise SettingsError(f"strategy {name} changes {fixed}, which all strategies must share")
    return strategy
