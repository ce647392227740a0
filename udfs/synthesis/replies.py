"""What comes of a call: a reply, no answer, or one that is of no use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    """What a model said: its text, and tokens as the server counts them, or a guess of one for three bytes."""

    text: str
    prompt_tokens: int
    answer_tokens: int


class CallFailed(Exception):  # noqa: N818 - what happened to a call
    """A call came to nothing. `status` says why; where `in_vain` nobody answered, and another run may have more luck."""

    def __init__(self, status: str, message: str, *, in_vain: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.in_vain = in_vain


class WrongAnswer(Exception):  # noqa: N818 - what it is: an answer
    """An answer is of no use. `status` is one of empty, refused, no_json, cut, wrong_schema, no_picture; the message is
    for the model too.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status
