"""The functions handed to mapInArrow that write requests and ask models: each answer is kept before the next is asked for.

A kept answer is a small file named after its request: a task that is tried again and a run that goes on after a kill
find what was paid for.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from udfs import storage
from udfs.columns import Columns, gives
from udfs.errors import ServingError, SettingsError
from udfs.files.ahead import in_order
from udfs.strings import printable, python_rows
from udfs.synthesis.parsing import parse_answer
from udfs.synthesis.picture_files import save_picture
from udfs.synthesis.prompts import (
    Message,
    most_tokens,
    prompt_version,
    repair_messages,
    request_id,
    step_messages,
)
from udfs.synthesis.replies import CallFailed, WrongAnswer
from udfs.synthesis.slots import Slots
from udfs.synthesis.spec import AskSpec, EndpointSpec, RequestSpec, Step

if TYPE_CHECKING:
    from udfs.synthesis.client import ModelClient

REQUEST_INPUT = Columns(
    "passage_id string, title string, text string, query string, entity string, other string"
)
REQUESTS = Columns(
    "request_id string, passage_id string, step string, messages string, prompt_bound bigint, answer_bound bigint"
)
# `fields` is a JSON object; `raw` what the model said, one text for each time it was asked.
ANSWERS = Columns(
    "request_id string, passage_id string, step string, prompt_version string, model_name string, seed int, "
    "status string, error string, fields string, raw array<string>, picture string, prompt_tokens bigint, "
    "answer_tokens bigint, cost double, tries int, seconds double"
)
# What another run asks again: nobody has answered.
IN_VAIN = "in_vain"
_ROWS = 16  # of one Arrow batch of answers
_RAW_CHARS = 20_000  # kept of one answer
_KEPT_BYTES = 2_000_000  # of a kept answer, which _RAW_CHARS bounds


@gives(REQUESTS)
def request_batches(
    batches: Iterator[pa.RecordBatch], *, spec: RequestSpec
) -> Iterator[pa.RecordBatch]:
    """One request for each REQUEST_INPUT row. Texts that are not UTF-8 are asked with their bytes spelled out."""
    for batch in batches:
        rows = []
        for row in python_rows(batch):
            shown = {name: printable(value) if value else value for name, value in row.items()}
            messages = step_messages(
                spec.step, shown, domains=spec.domains, passage_chars=spec.passage_chars
            )
            prompt, answer = most_tokens(messages, spec.endpoint)
            if spec.step == "picture":
                prompt = answer = 0  # its price is that of a picture
            rows.append(
                {
                    "request_id": request_id(spec.step, spec.endpoint, messages),
                    "passage_id": row["passage_id"],
                    "step": spec.step,
                    "messages": json.dumps(messages, ensure_ascii=False),
                    "prompt_bound": prompt,
                    "answer_bound": answer,
                }
            )
        yield pa.RecordBatch.from_pylist(rows, schema=REQUESTS.arrow)


@gives(ANSWERS)
def ask_batches(batches: Iterator[pa.RecordBatch], *, spec: AskSpec) -> Iterator[pa.RecordBatch]:
    """Ask for each REQUESTS row and give its ANSWERS row, in order.

    One that came to nothing costs its row only: `status` says why, with the prefix `in_vain/` where nobody answered and
    a later run asks again. Raises ServingError where `spec.give_up_after` requests in a row were not answered,
    SettingsError where the server takes no request of this kind at all.
    """
    asker = _Asker(spec)
    rows = (row for batch in batches for row in python_rows(batch))
    answers = in_order(asker.answer, rows, threads=spec.concurrency, size=lambda _: 0)
    while some := list(islice(answers, _ROWS)):
        yield pa.RecordBatch.from_pylist(some, schema=ANSWERS.arrow)


_lock = threading.Lock()
_unanswered: Counter[str] = (
    Counter()
)  # requests in a row of this process, over its tasks, by url and model


class _Asker:
    """Asks from several threads."""

    def __init__(self, spec: AskSpec) -> None:
        self._spec = spec
        self._client = open_client(spec.endpoint)
        self._slots = Slots(f"{spec.endpoint.url}", count=spec.concurrency)
        if (folder := storage.local_path(spec.journal)) is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The kept answer to a request, or a new one, which is kept."""
        file = storage.join(self._spec.journal, f"{request['request_id']}.json")
        if (kept := _read(file)) is not None:
            return kept
        with self._slots.take():
            started = time.perf_counter()
            made = self._ask(request["step"], json.loads(request["messages"]))
            made["seconds"] = time.perf_counter() - started
        endpoint, prices = self._spec.endpoint, self._spec.prices
        pictures = int(made["picture"] is not None)
        made |= {
            "request_id": request["request_id"],
            "passage_id": request["passage_id"],
            "step": request["step"],
            "prompt_version": prompt_version(request["step"]),
            "model_name": endpoint.model,
            "seed": endpoint.seed,
            "cost": prices.cost(made["prompt_tokens"], made["answer_tokens"], pictures=pictures),
        }
        if not made["status"].startswith(IN_VAIN):
            storage.write_small(json.dumps(made).encode(), file)
        self._require_answers(made)
        return made

    def _ask(self, step: Step, messages: list[Message]) -> dict[str, Any]:
        made = _Made()
        try:
            if step == "picture":
                made.picture = self._save(self._client.draw(messages[0]["content"]))
                made.tries = 1
            else:
                self._talk(step, messages, made)
        except WrongAnswer as error:
            made.status, made.error = error.status, str(error)
        except CallFailed as error:
            # A server that answered once and then no more: the next run asks again from the start.
            made.status = f"{IN_VAIN}/{error.status}" if error.in_vain else error.status
            made.error = str(error)
        return vars(made)

    def _talk(self, step: Step, messages: list[Message], made: _Made) -> None:
        """Ask, and once more with the error where the answer is of no use."""
        asked = messages
        for last in (False, True):
            reply = self._client.chat(asked, step=step, domains=self._spec.domains)
            made.tries += 1
            made.prompt_tokens += reply.prompt_tokens
            made.answer_tokens += reply.answer_tokens
            made.raw.append(printable(reply.text)[:_RAW_CHARS])
            try:
                found = parse_answer(printable(reply.text), step, domains=self._spec.domains)
            except WrongAnswer as error:
                if last or error.status == "refused":
                    raise
                wrong, said = printable(reply.text), str(error)
                asked = repair_messages(messages, wrong=wrong, error=said, step=step)
            else:
                made.fields = json.dumps(found, ensure_ascii=False)
                return

    def _save(self, data: bytes) -> str:
        """The picture as a file that its content names. Raises WrongAnswer for what is none."""
        try:
            return save_picture(data, self._spec.pictures)
        except ValueError as error:
            raise WrongAnswer("no_picture", str(error)) from None

    def _require_answers(self, made: dict[str, Any]) -> None:
        key = f"{self._spec.endpoint.url} {self._spec.endpoint.model}"
        with _lock:
            count = _unanswered[key] + 1 if made["status"].startswith(IN_VAIN) else 0
            gives_up = count >= self._spec.give_up_after
            _unanswered[key] = 0 if gives_up else count
        if gives_up:
            raise ServingError(
                f"{self._spec.endpoint.url} did not answer {count} requests in a row, the last one with: "
                f"{made['status'].partition('/')[2]}, {made['error']}. What it answered is kept; run again when it serves"
            )


@dataclass
class _Made:
    """What has come of a request so far."""

    status: str = "ok"
    error: str | None = None
    fields: str | None = None
    raw: list[str] = field(default_factory=list)
    picture: str | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    tries: int = 0


def open_client(spec: EndpointSpec) -> ModelClient:
    """A client of an endpoint. Raises SettingsError where the library is not installed."""
    try:
        from udfs.synthesis.client import ModelClient
    except ModuleNotFoundError as error:
        if error.name not in {"openai", "httpx2"}:
            raise
        raise SettingsError(
            f"the package {error.name} is missing where models are asked: install gme-lake[synth] there"
        ) from error
    return ModelClient(spec)


def _read(file: str) -> dict[str, Any] | None:
    """A kept answer; None where there is none. One that a crash cut off is none."""
    try:
        kept = json.loads(storage.read_bytes(file, max_bytes=_KEPT_BYTES))
    except (FileNotFoundError, ValueError):
        return None
    return kept if isinstance(kept, dict) and set(kept) == set(ANSWERS.names) else None
