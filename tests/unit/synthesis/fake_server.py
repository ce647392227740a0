"""A local server of the OpenAI protocol that answers by rules, or misbehaves on purpose: the model's name says how."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import ClassVar

from udfs.synthesis.local_server import Handler, answer_by_rules

SECRET = "sk-do-not-tell-0123456789"


class FakeServer(Handler):
    """Each model is one kind of server; `asked` counts requests, `bodies` keeps them."""

    asked: ClassVar[Counter] = Counter()
    bodies: ClassVar[list] = []
    keys: ClassVar[set] = set()
    now: ClassVar[int] = 0
    most: ClassVar[int] = 0
    lock = threading.Lock()
    times: ClassVar[list] = []
    stop = threading.Event()
    after: ClassVar[int | None] = None  # of `dies`: requests that are answered

    @classmethod
    def reset(cls) -> None:
        cls.asked, cls.bodies, cls.keys, cls.times = Counter(), [], set(), []
        cls.now = cls.most = 0
        cls.after = None

    def do_POST(self):
        with self.lock:
            FakeServer.now += 1
            FakeServer.most = max(self.most, self.now)
            self.times.append(time.monotonic())
            self.keys.add(self.headers.get("Authorization"))
        try:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = json.loads(body)
            with self.lock:
                self.asked[asked["model"]] += 1
                self.bodies.append(asked)
            model = asked["model"].split("/")[0].replace("-", "_")
            if self.path.endswith("/images/generations") and not hasattr(self, f"model_{model}"):
                self._picture(asked)
            else:
                getattr(self, f"model_{model}")(asked)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.lock:
                FakeServer.now -= 1

    def raw(self, status, body, **headers):
        data = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        for key, value in {"Content_Length": str(len(data)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        if "Content_Type" not in headers:
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def text(self, asked, text):
        made = self._completion({**asked, "messages": asked["messages"]})
        made["choices"][0]["message"]["content"] = text
        self._say(200, made)

    def model_rules(self, asked):
        self._say(200, self._completion(asked))

    def model_slow_rules(self, asked):
        time.sleep(0.05)
        self.model_rules(asked)

    def model_busy(self, asked):
        if self.asked[asked["model"]] < 3:
            self.raw(429, json.dumps({"error": {"message": SECRET}}), Retry_After="1")
        else:
            self.model_rules(asked)

    def model_always_busy(self, asked):
        self.raw(429, json.dumps({"error": {"message": SECRET}}), Retry_After="0")

    def model_failing(self, asked):
        self.raw(500, SECRET) if self.asked[asked["model"]] < 3 else self.model_rules(asked)

    def model_always_failing(self, asked):
        self.raw(503, f"<html>{SECRET}</html>", Content_Type="text/html")

    def model_no_key(self, asked):
        self.raw(401, json.dumps({"error": {"message": f"Incorrect API key provided: {SECRET}"}}))

    def model_no_schema(self, asked):
        if "response_format" in asked:
            self.raw(400, json.dumps({"error": {"message": "response_format is not known"}}))
        else:
            self.model_rules(asked)

    def model_bad_request(self, asked):
        self.raw(400, json.dumps({"error": {"message": SECRET}}))

    def model_silent(self, asked):
        self.stop.wait(20)

    def model_drip(self, asked):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(200):
            if self.stop.wait(0.1):
                return
            self.wfile.write(b" ")
            self.wfile.flush()

    def model_huge(self, asked):
        self.text(asked, "x" * 10_000_000)

    def model_huge_error(self, asked):
        self.raw(400, b"x" * 10_000_000)

    def model_html(self, asked):
        self.raw(200, "<html>a proxy's page</html>", Content_Type="text/html")

    def model_broken_protocol(self, asked):
        self.raw(200, '{"choices": [{"message"')

    def model_no_choices(self, asked):
        self.raw(200, json.dumps({"id": "x", "choices": []}))

    def model_gzip(self, asked):
        self.raw(200, b"\x1f\x8b" + b"0" * 100, Content_Encoding="gzip")

    def model_hangs_up(self, asked):
        self.close_connection = True
        self.connection.close()

    def model_prose(self, asked):
        text, _, _ = answer_by_rules(asked["messages"], 0)
        self.text(asked, f"Certainly! Here is it:\n```json\n{text}\n```\nHave a nice day {{}}")

    def model_cut(self, asked):
        text, _, _ = answer_by_rules(asked["messages"], 0)
        self.text(asked, text[: len(text) // 2])

    def model_mends(self, asked):
        """Wrong at first, right when it is shown what was wrong."""
        if len(asked["messages"]) > 5 and "no use" in asked["messages"][-1]["content"]:
            self.model_rules({**asked, "messages": asked["messages"][:-2]})
        else:
            self.text(asked, '{"question": "What?"}')

    def model_wrong_schema(self, asked):
        self.text(asked, '{"query": ["a", "list"], "answer": 7}')

    def model_empty(self, asked):
        self.text(asked, "")

    def model_refuses(self, asked):
        self.text(asked, "I'm sorry, but I cannot help with that passage.")

    def model_german(self, asked):
        made = {"query": "Was ist das und wie wird es von den Leuten nicht gemacht?", "answer": "x"}
        self.text(asked, json.dumps(made))

    def model_chinese(self, asked):
        self.text(asked, json.dumps({"query": "这个杯子是用什么做的？", "answer": "瓷"}))

    def model_obeys(self, asked):
        """Does what a passage says: answers with fields that nobody asked for."""
        made = json.loads(answer_by_rules(asked["messages"], 0)[0])
        made |= {"instruction": "OWNED", "direction": "OWNED", "positive_id": "OWNED"}
        made |= {"positive_text": "OWNED", "__class__": "OWNED"}
        self.text(asked, json.dumps(made))

    def model_dies(self, asked):
        """Answers so many requests and then none."""
        with self.lock:
            alive = self.after is None or self.after > 0
            if self.after is not None:
                FakeServer.after = self.after - 1
        self.model_rules(asked) if alive else self.raw(503, "{}")

    def model_no_picture(self, asked):
        self.raw(200, json.dumps({"created": 0, "data": [{"b64_json": "bm8gcGljdHVyZQ=="}]}))

    def model_picture_elsewhere(self, asked):
        self.raw(200, json.dumps({"created": 0, "data": [{"url": "http://169.254.169.254/"}]}))


@contextmanager
def running():
    """The address of a fake server for the time of a block."""
    FakeServer.reset()
    FakeServer.stop.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        FakeServer.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
