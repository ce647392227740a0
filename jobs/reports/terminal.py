"""Tables for people: a console as wide as the terminal, or of a fixed width where the output is none."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console

PIPE_WIDTH = 140  # columns where the output is no terminal


def open_console(file: TextIO, *, pipe_width: int = PIPE_WIDTH) -> Console:
    """A console that prints to `file`, in colour in a terminal."""
    console = Console(file=file, highlight=False)
    if console.is_terminal:
        return console
    return Console(file=file, highlight=False, width=pipe_width)
