"""Settings of the lake: where tables and runs are kept, the local session, what may be released."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from jobs.settings.section import Section


class LakeSettings(Section):
    """Where the product's own tables and files live."""

    root: str = Field(
        "gme-lake", description="folder (path or URI) of tables, index files, stream checkpoints"
    )
    schema_: str = Field(
        "gme", alias="schema", description="schema of all tables, e.g. gme or main.gme"
    )
    managed: bool = Field(
        False, description="true: the catalog decides where tables lie; false: under root/tables"
    )


class ReleaseSettings(Section):
    """How old an index may be that is released."""

    max_missing: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the model's rows in `vectors` that the index may lack; 1: any index may be released",
    )
    max_gone: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the index's rows that `vectors` may no longer have; 1: any index may be released",
    )


class MlflowSettings(Section):
    """Where runs and model versions are kept."""

    tracking_uri: str | None = Field(
        None, description="null: MLFLOW_TRACKING_URI, else sqlite beside the lake"
    )
    experiment: str = Field("gme-lake", description="experiment of the job runs")


class SparkSettings(Section):
    """The local session. A session that spark-submit or a notebook started is used as it is."""

    master: str = Field("local[*,4]", description="local sessions only")
    driver_memory: str = Field("4g", description="local sessions only")
    conf: dict[str, str] = Field(
        default_factory=dict, description="further Spark settings, as spark.conf.a.b=c"
    )

    @field_validator("conf", mode="before")
    @classmethod
    def _as_spark_writes(cls, conf: Any) -> Any:
        """YAML's true and 8 as Spark's "true" and "8"."""
        if not isinstance(conf, dict):
            return conf
        scalar = bool | int | float
        return {
            k: str(v).lower() if isinstance(v, bool) else str(v) if isinstance(v, scalar) else v
            for k, v in conf.items()
        }
