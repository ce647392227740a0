"""A local server of the OpenAI protocol for trials: answers by rules or of a small real model, and drawn pictures.

    python -m udfs.synthesis.local_server --answers rules

It says its address on the first line of its output and ends when its input ends. The rules know passages of products
best; their answers are those of a machine that makes no mistakes, so that what is trained on them shows the pipeline
and not a language model. Pictures are drawn products, whatever else a caption says.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from udfs.drawing import Combination, draw_jpeg
from udfs.drawing.words import COLOUR_WORDS, KIND_WORDS, PATTERN_WORDS

Answerer = Callable[[list[dict[str, str]], int], tuple[str, int, int]]
_MAX_REQUEST = 1_000_000  # bytes
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_MADE_OF = re.compile(r"made of ([^.;:]+)", re.IGNORECASE)
_MADE_FIRST = re.compile(r"^([^.,:]+), [^.:]+: an? ", re.IGNORECASE)


def answer_by_rules(messages: list[dict[str, str]], max_tokens: int) -> tuple[str, int, int]:
    """(answer, tokens of the request, tokens of the answer), tokens as a guess of four letters each."""
    asked = _last_task(messages)
    if "second" in asked:
        made = {"change": _change(asked["first"], asked["second"])}
    elif "entity" in asked:
        made = {
            "caption": f"A {asked['entity']} on a plain background: {_first(asked['passage'])[:120]}"
        }
    elif "query" in asked:
        made = _entity(asked)
    else:
        made = _query(asked)
    text = json.dumps(made, ensure_ascii=False)
    return text, sum(len(m["content"]) for m in messages) // 4, len(text) // 4


def _last_task(messages: list[dict[str, str]]) -> dict[str, Any]:
    """What was asked last; a request to mend an answer is in words."""
    for message in reversed(messages):
        if message["role"] == "user" and message["content"].startswith("{"):
            found: dict[str, Any] = json.loads(message["content"])
            return found
    raise ValueError("no message is a task")


def _query(asked: dict[str, Any]) -> dict[str, str]:
    passage = asked["passage"]
    title = asked["title"] or " ".join(passage.split()[:6]).rstrip(".,")
    found = _MADE_OF.search(passage) or _MADE_FIRST.search(passage)
    if found:
        return {"query": f"What is the {title.lower()} made of?", "answer": found[1].strip()}
    return {"query": f"What should one know about {title}?", "answer": _first(passage)}


def _entity(asked: dict[str, Any]) -> dict[str, str]:
    shown = f"{asked['title']} {asked['passage']}"
    title = asked["title"] or " ".join(asked["passage"].split()[:6]).rstrip(".,")
    product = read_product(shown)
    if product is not None:
        query = re.sub(re.escape(title), "product", asked["query"], flags=re.IGNORECASE)
        query = query.replace("the product", "this product")
        return {"entity": title, "domain": _DOMAIN_OF[product.kind], "query": query}
    query = re.sub(re.escape(title), "this thing", asked["query"], flags=re.IGNORECASE)
    return {"entity": title, "domain": asked["domains"][-1], "query": query}


_DOMAIN_OF = {
    **dict.fromkeys(("t-shirt", "shoe", "hat", "bag"), "clothing"),
    **dict.fromkeys(("lamp", "chair"), "furniture"),
    **dict.fromkeys(("boat", "car"), "vehicle"),
    **dict.fromkeys(("mug", "kite", "clock", "umbrella", "bottle"), "tool"),
    "book": "document",
    "guitar": "instrument",
    "house": "building",
}


def _change(first: str, second: str) -> str:
    known = set(re.findall(r"\w+", first.lower()))
    new = [word for word in re.findall(r"\w+", second.lower()) if word not in known]
    return f"the same but {' '.join(new[:8]) or 'another one'}"


def _first(passage: str) -> str:
    return _SENTENCE.split(passage.strip())[0]


def read_product(text: str) -> Combination | None:
    """The drawn product that a text names, by the words of its catalogue; None where it names none."""
    told = text.lower()
    patterns = {name: (*before, *after) for name, (before, after) in PATTERN_WORDS.items()}
    kind, colour, pattern = (
        _find_word(told, known) for known in (KIND_WORDS, COLOUR_WORDS, patterns)
    )
    if kind is None or colour is None:
        return None
    return Combination(kind, colour, pattern or "plain")


def _find_word(text: str, known: dict[str, tuple[str, ...]]) -> str | None:
    """The value whose word stands in the text; of several the longest word's."""
    found = [
        (len(word), value)
        for value, names in known.items()
        for word in names
        if re.search(rf"\b{re.escape(word)}\b", text)
    ]
    return max(found)[1] if found else None


class Handler(BaseHTTPRequestHandler):
    """POST /v1/chat/completions and /v1/images/generations, as far as `ModelClient` uses them."""

    protocol_version = "HTTP/1.1"
    answerer: Answerer = staticmethod(answer_by_rules)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the output is the parent's."""

    def do_POST(self) -> None:
        """Answer a request; what cannot be read is a bad one."""
        length = int(self.headers.get("Content-Length", 0))
        if length > _MAX_REQUEST:
            self.close_connection = True
            return self._say(413, {"error": {"message": "the request is too large"}})
        try:
            asked = json.loads(self.rfile.read(length))
            if self.path.endswith("/chat/completions"):
                return self._say(200, self._completion(asked))
            if self.path.endswith("/images/generations"):
                return self._picture(asked)
        except (ValueError, KeyError, TypeError) as error:
            return self._say(400, {"error": {"message": f"no request: {type(error).__name__}"}})
        return self._say(
            404, {"error": {"message": "there are chat/completions and images/generations"}}
        )

    def _completion(self, asked: dict[str, Any]) -> dict[str, Any]:
        text, prompt, answer = self.answerer(asked["messages"], int(asked.get("max_tokens") or 200))
        message = {"role": "assistant", "content": text}
        return {
            "id": "local",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": answer,
                "total_tokens": prompt + answer,
            },
        }

    def _picture(self, asked: dict[str, Any]) -> None:
        product = read_product(asked["prompt"])
        if product is None:
            return self._say(
                400, {"error": {"message": "this endpoint draws products of its catalogue"}}
            )
        data = draw_jpeg(*product, seed=f"synthesis/{asked['prompt']}", size=224)
        return self._say(
            200, {"created": 0, "data": [{"b64_json": base64.b64encode(data).decode()}]}
        )

    def _say(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Serve on a free port of this machine alone until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", choices=("rules", "smollm2"), default="rules")
    asked = parser.parse_args()
    if asked.answers == "smollm2":
        from udfs.synthesis.small_model import SmallModel

        Handler.answerer = staticmethod(SmallModel.load().answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}/v1\n")
    sys.stdout.flush()
    while sys.stdin.read(4096):
        pass


if __name__ == "__main__":
    main()
