"""Errors of Spark told as what they are: those raised inside tasks brought back, and the root cause of the others."""

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
        errors.CanaryError,
        errors.IndexDataError,
        errors.LakeError,
    )
}

_TRACEBACK = "Traceback (most recent call last):\n"
_JAVA_NAME = r"(?:[A-Za-z_]\w*\.)+[A-Z][\w$]*"
# `Caused by: java.io.IOException: No space left on device`; an indented one belongs to a suppressed error.
_CAUSED = re.compile(rf"^Caused by: ({_JAVA_NAME})(?:: (.*))?$", re.MULTILINE)
# `Lost task 0.0 in stage 3.0 (TID 3) (host executor driver): java.io.IOException: No space left on device`
_LOST = re.compile(rf"^.*Lost task [^\n]*?\): ({_JAVA_NAME})(?:: (.*))?$", re.MULTILINE)
_CALLED = re.compile(rf"^: ({_JAVA_NAME})(?:: (.*))?$", re.MULTILINE)  # py4j's second line
_STATE = re.compile(r" SQLSTATE: \w{5}.*$")


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


def root_cause(error: BaseException) -> str:
    """One line that says why: the kind and message of the deepest cause, also where a stack of Java or Python hides it.

    Of a Python worker's traceback that is its last line, of a Java stack the last `Caused by` that says anything.
    """
    text = str(error)
    if _TRACEBACK in text:
        return _end_of_traceback(text.rpartition(_TRACEBACK)[2])
    stack = str(
        getattr(error, "_stackTrace", None) or ""
    )  # PySpark keeps it apart from the message
    for pattern in (_CAUSED, _LOST, _CALLED):
        said = [(name, what) for name, what in pattern.findall(f"{text}\n{stack}") if what]
        if said:
            return _describe(said[-1][0].rpartition(".")[2], said[-1][1])
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return _describe(type(error).__name__, first)


def failure(error: BaseException) -> str:
    """What the table of runs keeps of an error: the root cause, and under it everything."""
    if isinstance(error, errors.GmeLakeError):
        return f"{type(error).__name__}: {error}"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by a signal"
    return f"{root_cause(error)}\n{type(error).__name__}: {error}"


def _end_of_traceback(rest: str) -> str:
    """The exception that stands under the frames, which are indented."""
    lines = iter(rest.splitlines())
    line = next((line for line in lines if line.strip() and not line.startswith(" ")), rest.strip())
    return _STATE.sub("", line.strip())


def _describe(name: str, message: str) -> str:
    message = _STATE.sub("", message.strip())
    return f"{name}: {message}" if message else name


def is_broken_off(error: BaseException) -> bool:
    """Whether an error says that a call of the JVM was broken off: py4j makes one of a signal that arrives within it.

    Whoever goes on after errors must not go on after this one: somebody has stopped the job, or the JVM is gone.
    """
    from py4j.protocol import Py4JNetworkError

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Py4JNetworkError | KeyboardInterrupt):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
