"""Errors raised inside Spark tasks, brought back as what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from udfs import errors

# The last line of the worker's traceback: `udfs.errors.IndexDataError: what happened`.
_RAISED = re.compile(r"^udfs\.errors\.(\w+): (.+?)(?=^\s*at |^\s*$|\Z)", re.MULTILINE | re.DOTALL)

# Those that are made from a message alone; a rejected row never leaves its task.
_KINDS: dict[str, type[errors.GmeLakeError]] = {
    kind.__name__: kind
    for kind in (
        errors.SettingsError,
        errors.CheckpointError,
        errors.ServingError,
        errors.IndexDataError,
        errors.LakeError,
    )
}


@contextmanager
def clear_task_errors() -> Iterator[None]:
    """Raise the GmeLakeError of a failed task instead of Spark's error around its traceback; others pass."""
    try:
        yield
    except errors.GmeLakeError:
        raise
    except Exception as error:
        for name, message in _RAISED.findall(str(error)):
            kind = _KINDS.get(name)
            if kind is not None:
                raise kind(message.strip()) from error
        raise
