"""One call of a model behind the OpenAI protocol: bounded in bytes and time, tried again where that may help.

What a server says is read for its answer alone: messages of errors name the status in our words, as a server may repeat
the key or the passage.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
import openai
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity import wait_random_exponential as random_exponential

from udfs.errors import SettingsError
from udfs.synthesis.prompts import Message, answer_schema
from udfs.synthesis.replies import CallFailed, Reply
from udfs.synthesis.spec import EndpointSpec, Step

R = TypeVar("R")

_CONNECT_SECONDS = 10.0
_BUSY = {408, 409, 425, 429}
_MISTAKEN = {401, 403, 404, 405}
_NO_KEY = "none"  # what the library must be given where the server asks for none


class _Again(CallFailed):
    """What another try may mend; `pause` is what the server asked for, in seconds."""

    pause: float = 0.0


class _TooLargeError(httpx2.TransportError):  # type: ignore[misc]
    """An answer had more bytes than it may have."""


class ModelClient:
    """A client of one endpoint, for all threads of a process.

    The library's own retries are off: those here know the limits of the run.
    """

    def __init__(self, spec: EndpointSpec) -> None:
        self._spec = spec
        self._structured = spec.structured
        self._asks_for_bytes = True  # newer picture models give nothing else and refuse the word
        # With the key it would be logged by whoever turns the library's debugging on.
        for name in ("openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def chat(self, messages: list[Message], *, step: Step, domains: tuple[str, ...]) -> Reply:
        """What the model says to `messages`. Raises CallFailed, or SettingsError where no call can succeed."""

        def call() -> Reply:
            given = self._response_format(step, domains)
            try:
                made = self._library.chat.completions.create(
                    model=self._spec.model,
                    messages=messages,
                    temperature=self._spec.temperature,
                    max_tokens=self._spec.max_tokens,
                    seed=self._spec.seed,
                    **given,
                )
            except openai.APIStatusError as error:
                if given and error.status_code in {400, 422}:
                    self._structured = "none"  # the server does not know it; parsing will do
                    raise _Again("bad_request", _said(error)) from None
                raise
            return _reply(made, messages)

        return self._try(call)

    def draw(self, caption: str) -> bytes:
        """A picture of `caption` as the file that the model gives. Raises as `chat` does."""

        def call() -> bytes:
            given: dict[str, Any] = {"response_format": "b64_json"} if self._asks_for_bytes else {}
            try:
                made = self._library.images.generate(
                    model=self._spec.model,
                    prompt=caption,
                    n=1,
                    size=self._spec.size,
                    **given,
                )
            except openai.APIStatusError as error:
                if given and error.status_code in {400, 422}:
                    self._asks_for_bytes = False
                    raise _Again("bad_request", _said(error)) from None
                raise
            return _picture(made)

        return self._try(call)

    @cached_property
    def _library(self) -> openai.OpenAI:
        spec = self._spec
        limits = httpx2.Timeout(spec.seconds, connect=min(_CONNECT_SECONDS, spec.seconds))
        transport = _Bounded(max_bytes=spec.max_bytes, seconds=spec.seconds)
        try:
            return openai.OpenAI(
                base_url=spec.url,
                api_key=_NO_KEY if spec.key == "none" else None,
                max_retries=0,
                timeout=limits,
                default_headers={"Accept-Encoding": "identity"},
                http_client=httpx2.Client(transport=transport, timeout=limits),
            )
        except openai.OpenAIError:
            raise SettingsError(
                "OPENAI_API_KEY is not set in the environment of the process that asks: set it there (on a cluster by "
                "spark.executorEnv from the platform's secrets), or synthesize.key=none for a server that asks for none"
            ) from None

    def _response_format(self, step: Step, domains: tuple[str, ...]) -> dict[str, Any]:
        if self._structured == "none":
            return {}
        if self._structured == "json":
            return {"response_format": {"type": "json_object"}}
        schema = {"name": step, "strict": True, "schema": answer_schema(step, domains)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def _try(self, call: Callable[[], R]) -> R:
        retrying = Retrying(
            stop=stop_after_attempt(self._spec.tries),
            wait=self._pause,
            retry=retry_if_exception_type(_Again),
            reraise=True,
        )
        result: R = retrying(self._once, call)
        return result

    def _once(self, call: Callable[[], R]) -> R:
        """One request; every way in which it can fail as CallFailed, or as SettingsError."""
        spec = self._spec
        try:
            return call()
        except CallFailed:
            raise
        except openai.APIStatusError as error:
            status = error.status_code
            if status in _MISTAKEN:
                raise SettingsError(
                    f"{spec.url} refuses model {spec.model}: {_said(error)}. Look at synthesize.url, the model's name, and "
                    "the key in the environment"
                ) from None
            if status in _BUSY or status >= 500:
                failed = _Again("busy" if status in _BUSY else "server_error", _said(error))
                failed.pause = _retry_after(error.response.headers.get("retry-after", ""))
                raise failed from None
            raise CallFailed("bad_request", _said(error)) from None
        except openai.APITimeoutError:
            raise _Again("timeout", f"no whole answer within {spec.seconds:g} s") from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, _TooLargeError):
                words = f"the answer has more than {spec.max_bytes} bytes"
                raise CallFailed("too_large", words, in_vain=False) from None
            raise _Again("unreachable", f"{spec.url} cannot be reached, or broke off") from None
        except (openai.APIError, ValueError, TypeError, AttributeError, IndexError) as error:
            # What is no answer of this protocol fails wherever the library first looks into it.
            raise _Again(
                "no_protocol", f"no answer of the protocol ({type(error).__name__})"
            ) from None

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.pause if isinstance(error, _Again) else 0.0
        return min(max(_back_off(state), asked), self._spec.longest_pause)


_back_off = random_exponential(multiplier=0.5, max=30)


class _Bounded(httpx2.HTTPTransport):  # type: ignore[misc]
    """Bodies of answers, errors too, end at `max_bytes` and after `seconds`, whatever the server goes on to send."""

    def __init__(self, *, max_bytes: int, seconds: float) -> None:
        super().__init__()
        self._max_bytes, self._seconds = max_bytes, seconds

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, its body cut off."""
        deadline = time.monotonic() + self._seconds
        response = super().handle_request(request)
        coding = response.headers.get("content-encoding", "identity")
        if coding != "identity":  # a few bytes may unpack to any number
            response.close()
            raise httpx2.RemoteProtocolError(f"content-encoding {coding!r} was not asked for")
        body = response.stream
        assert isinstance(body, httpx2.SyncByteStream)
        response.stream = _Body(body, max_bytes=self._max_bytes, deadline=deadline)
        return response


class _Body(httpx2.SyncByteStream):  # type: ignore[misc]
    def __init__(self, body: httpx2.SyncByteStream, *, max_bytes: int, deadline: float) -> None:
        self._body, self._left, self._deadline = body, max_bytes, deadline

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            self._left -= len(chunk)
            if self._left < 0:
                raise _TooLargeError("the answer is too large")
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the answer takes too long")
            yield chunk

    def close(self) -> None:
        self._body.close()


def _reply(made: Any, messages: list[Message]) -> Reply:
    """The reply in a completion; raises AttributeError, IndexError or TypeError where it is none."""
    choice = made.choices[0]
    text = choice.message.content or ""
    if not text and getattr(choice.message, "refusal", None):
        text = f"I'm sorry: {choice.message.refusal}"
    if not isinstance(text, str):
        raise TypeError("the content is no text")
    usage = made.usage
    asked = sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in messages)
    return Reply(
        text,
        prompt_tokens=_count(usage, "prompt_tokens", asked),
        answer_tokens=_count(usage, "completion_tokens", len(text.encode("utf-8", "replace"))),
    )


def _count(usage: Any, name: str, nbytes: int) -> int:
    told = getattr(usage, name, None)
    return told if isinstance(told, int) and told >= 0 else nbytes // 3 + 1


def _picture(made: Any) -> bytes:
    coded = made.data[0].b64_json
    if not coded:
        raise CallFailed(
            "no_picture",
            "the server named a place instead of giving the picture, which is not followed",
        )
    try:
        return base64.b64decode(coded, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _said(error: openai.APIStatusError) -> str:
    try:
        return f"HTTP {error.status_code} {HTTPStatus(error.status_code).phrase}"
    except ValueError:
        return f"HTTP {error.status_code}"


def _retry_after(asked: str) -> float:
    asked = asked.strip()
    return float(asked) if asked.isdecimal() and len(asked) < 6 else 0.0
