"""What a command came to, printed: text for people, or with --json one object as the last line of standard output."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import date
from pathlib import PurePath
from typing import Any

import click

Text = str | Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a command came to. `text` is for people, or is called to print itself to `file`; `values` are for programs.

    `status` is what the command ends with: 0, or another where what was asked for was not reached. `serve` goes on
    after the report is printed, until a signal ends it.
    """

    text: Text
    values: Mapping[str, object]
    status: int = 0
    serve: Callable[[], None] | None = None

    @classmethod
    def of(cls, result: Any, **more: object) -> Report:
        """Of a dataclass that says in `str` what it is; its fields are the values, and `more`."""
        fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
        return cls(str(result), fields | more)


def print_report(report: Report, *, as_json: bool) -> None:
    """Print a report to standard output."""
    if as_json:
        click.echo(json_line(report.values))
    elif isinstance(report.text, str):
        click.echo(report.text)
    else:
        report.text(file=sys.stdout)


def json_line(values: Mapping[str, object]) -> str:
    """Values as one line of JSON, in ASCII, which every terminal and locale takes.

    Dataclasses and named tuples become objects, paths and times strings, NaN and infinities null. TypeError for what
    has no such form.
    """
    return json.dumps(_plain(values), allow_nan=False)


@contextlib.contextmanager
def only_the_result(*, wanted: bool) -> Iterator[None]:
    """Send to standard error what the block, libraries and processes it starts write to standard output."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    with contextlib.redirect_stdout(sys.stderr), _descriptor_redirected():
        yield


@contextlib.contextmanager
def _descriptor_redirected() -> Iterator[None]:
    try:
        number, instead = sys.__stdout__.fileno(), sys.__stderr__.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        yield  # a notebook or test, whose streams are no files
        return
    kept = os.dup(number)
    os.dup2(instead, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if type(value).__module__ == "numpy":  # not imported for this: --help is quick
        return _plain(value.tolist())
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, date):  # a datetime is one too
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(
        f"a report has {value!r:.80} of type {type(value).__name__}, which JSON has no form for"
    )
