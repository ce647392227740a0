"""register_model: a checkpoint becomes a version in the model registry, by reference."""

from __future__ import annotations

from jobs.driver.cli import JobContext, job
from jobs.driver.printing import Report


@job(sections=("model", "mlflow", "lake"))
def command(context: JobContext) -> Report:
    """Register model.checkpoint under model.name and point model.alias at it.

    The weights stay where they are; the version's tags say what they are (model_id, dim, sha-256, profile). Before
    that the weight files are checked, and the canaries are embedded with them (model.trial): their vectors stay with
    the version, and every server of the model is compared with them.
    """
    from jobs.stages.register import describe_checkpoint, make_canaries

    settings = context.settings.model
    spec = describe_checkpoint(settings)
    canaries = make_canaries(spec, settings)
    model = context.registry.register(spec, alias=settings.alias, canaries=canaries)
    alias, spec = settings.alias, model.spec
    text = (
        f"{model.name} version {model.version} ({alias}): model_id {spec.model_id}, "
        f"{spec.dim} dimensions, {spec.dtype}, {spec.path}"
        + ("" if spec.canaries else "; without canaries: what loads of it serve is not checked")
    )
    return Report(
        text, {"name": model.name, "version": model.version, "alias": alias, **vars(spec)}
    )


if __name__ == "__main__":
    command()
