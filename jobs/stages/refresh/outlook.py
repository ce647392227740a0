"""What the next refresh would do, as its own plan says, and which rows of the source are not embedded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.lake.lake import Lake
from jobs.lake.registry import Registry
from jobs.settings.settings import Settings
from jobs.stages.refresh.plan import RefreshPlan, plan_refresh
from udfs.errors import GmeLakeError

# Reasons for which a row has no up-to-date vector; `gone` are vectors without a row.
_NOT_EMBEDDED = ("new", "changed", "model")


@dataclass(frozen=True)
class Outlook:
    """The plan of the next refresh, or `reason`: why there is none."""

    plan: RefreshPlan | None
    reason: str | None = None

    @property
    def not_embedded(self) -> Mapping[str, int] | None:
        """Rows of the source without an up-to-date vector of the release's model (the first planned), by reason;
        `left`: by embed.limit.
        """
        if self.plan is None:
            return None
        first = self.plan.forecasts[0]
        return {name: first.rows[name] for name in _NOT_EMBEDDED} | {"left": first.left}

    def lines(self) -> list[str]:
        """In words."""
        if self.plan is None:
            return [f"source: {self.reason}"]
        first = self.plan.forecasts[0]
        missing = sum((self.not_embedded or {}).values())
        said = f"source: {missing:,} of {first.source_rows:,} rows are not embedded with model {first.model_id}"
        if first.rows["gone"]:
            said += f", {first.rows['gone']:,} with a vector are gone"
        return [said, *f"next refresh: {self.plan}".splitlines()]

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "not_embedded": self.not_embedded,
            "next_refresh": None if self.plan is None else self.plan.values(),
            "next_refresh_unknown": self.reason,
        }


def look_ahead(lake: Lake, registry: Registry, settings: Settings) -> Outlook:
    """Plan a refresh as things are now; no model is asked and nothing written. Why it could not start is an answer too."""
    if not settings.source.table:
        return Outlook(
            None,
            "not looked at, as source.table is not set: which of its rows are not embedded, and what the next refresh "
            "would do, is not known",
        )
    try:
        wanted = registry.resolve()
        plan = plan_refresh(lake, registry, settings, wanted=wanted, again=False, trial=False)
    except GmeLakeError as error:
        return Outlook(None, f"a refresh would fail: {error}")
    return Outlook(plan)
