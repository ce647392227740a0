"""Settings of what monitoring reads."""

from __future__ import annotations

from pydantic import Field, field_validator

from jobs.settings.section import Section

_SUFFIX = ".prom"  # node-exporter reads no other files


class MetricsSettings(Section):
    """Where figures for monitoring go."""

    textfile: str | None = Field(
        None,
        description="local file NAME.prom that every run, and status, writes for Prometheus: in the folder of "
        "node-exporter's --collector.textfile.directory",
    )

    @field_validator("textfile")
    @classmethod
    def _as_the_collector_reads(cls, textfile: str | None) -> str | None:
        if textfile is not None and ("://" in textfile or not textfile.endswith(_SUFFIX)):
            raise ValueError(
                f"give a local file whose name ends in {_SUFFIX}: node-exporter reads no other"
            )
        return textfile
