"""register_model: a checkpoint becomes a version in the model registry, by reference."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("model", "mlflow", "lake"))
def command(context: JobContext) -> Report:
    """Register model.checkpoint under model.name and point model.alias at it.

    The weights stay where they are; the version's tags say what they are (model_id, dim, sha-256, profile). Before
    that the weight files are checked, and one row is embedded with them (model.trial).
    """
    from jobs.stages.register import describe_checkpoint, try_model

    spec = describe_checkpoint(context.settings.model)
    if context.settings.model.trial:
        try_model(spec)
    model = context.registry.register(spec, alias=context.settings.model.alias)
    alias = context.settings.model.alias
    text = (
        f"{model.name} version {model.version} ({alias}): model_id {spec.model_id}, "
        f"{spec.dim} dimensions, {spec.dtype}, {spec.path}"
    )
    return Report(
        text, {"name": model.name, "version": model.version, "alias": alias, **vars(spec)}
    )


if __name__ == "__main__":
    command()
