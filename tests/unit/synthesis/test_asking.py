"""Asking a local server that is busy, fails, is silent, says too much or something else: one answer or one reason a row."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from tests.unit.synthesis.fake_server import SECRET, FakeServer, running
from udfs.errors import ServingError, SettingsError
from udfs.synthesis.asking import (
    ANSWERS,
    REQUEST_INPUT,
    REQUESTS,
    ask_batches,
    request_batches,
)
from udfs.synthesis.slots import Slots
from udfs.synthesis.spec import AskSpec, EndpointSpec, PriceSpec, RequestSpec

MUG = {
    "passage_id": "p1",
    "title": "Red mug",
    "text": "This red mug with dots is made of porcelain.",
}


@pytest.fixture(scope="module")
def url():
    with running() as address:
        yield address


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    FakeServer.reset()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def endpoint(url, model, **changes):
    given = {"url": url, "model": model, "key": "none", "seconds": 5.0, "longest_pause": 1.0}
    return EndpointSpec(**{**given, "tries": 4, **changes})


def requests_of(spec, rows=(MUG,), step="query"):
    filled = [{name: row.get(name) for name in REQUEST_INPUT.names} for row in rows]
    batch = pa.RecordBatch.from_pylist(filled, schema=REQUEST_INPUT.arrow)
    return list(request_batches(iter([batch]), spec=RequestSpec(step, spec)))


def ask(spec, folder, rows=(MUG,), step="query", **changes):
    asked = AskSpec(spec, f"{folder}/journal", f"{folder}/pictures", **changes)
    made = ask_batches(iter(requests_of(spec, rows, step)), spec=asked)
    found = [row for batch in made for row in batch.to_pylist()]
    assert all(set(row) == set(ANSWERS.names) for row in found)
    return found


def ask_one(spec, folder, **changes):
    (row,) = ask(spec, folder, **changes)
    assert SECRET not in json.dumps(row)
    return row


def test_an_answer_with_its_tokens_and_price(url, tmp_path):
    row = ask_one(endpoint(url, "rules"), tmp_path, prices=PriceSpec(prompt=2.0, answer=8.0))
    made = {"query": "What is the red mug made of?", "answer": "porcelain"}
    assert (row["status"], row["error"], json.loads(row["fields"])) == ("ok", None, made)
    assert row["passage_id"] == "p1" and row["model_name"] == "rules"
    assert [json.loads(raw) for raw in row["raw"]] == [made]
    cost = (2.0 * row["prompt_tokens"] + 8.0 * row["answer_tokens"]) / 1e6
    assert row["prompt_tokens"] > 100 and row["cost"] == pytest.approx(cost)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["busy", "failing"])
def test_a_busy_server_is_asked_again(url, tmp_path, model):
    row = ask_one(endpoint(url, model), tmp_path)
    assert row["status"] == "ok" and FakeServer.asked[model] == 3


@pytest.mark.slow
def test_retry_after_is_waited_for_and_bounded(url, tmp_path):
    ask_one(endpoint(url, "busy", longest_pause=30.0), tmp_path)
    first, second, third = FakeServer.times
    assert second - first >= 1.0 and third - second >= 1.0
    FakeServer.reset()
    started = time.monotonic()
    ask_one(endpoint(url, "busy/2", longest_pause=0.01), tmp_path)
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("always-busy", "in_vain/busy"),
        ("always-failing", "in_vain/server_error"),
        ("bad-request", "in_vain/bad_request"),
        pytest.param("silent", "in_vain/timeout", marks=pytest.mark.slow),
        pytest.param("drip", "in_vain/timeout", marks=pytest.mark.slow),
        ("html", "in_vain/no_protocol"),
        ("broken-protocol", "in_vain/no_protocol"),
        ("no-choices", "in_vain/no_protocol"),
        ("gzip", "in_vain/unreachable"),
        ("hangs-up", "in_vain/unreachable"),
        ("huge", "too_large"),
        ("huge-error", "too_large"),
        ("cut", "cut"),
        ("wrong-schema", "wrong_schema"),
        ("empty", "empty"),
        ("refuses", "refused"),
    ],
)
def test_what_is_no_answer_costs_its_row_only(url, tmp_path, model, status):
    spec = endpoint(url, model, seconds=1.0, tries=2, longest_pause=0.01)
    row = ask_one(spec, tmp_path)
    assert (row["status"], row["fields"]) == (status, None)
    assert row["error"]
    # What was paid for is kept; what nobody answered is asked again.
    assert list(Path(tmp_path, "journal").iterdir()) == [] if "in_vain" in status else True
    before = FakeServer.asked[model]
    again = ask_one(spec, tmp_path)
    assert again["status"] == status
    assert (FakeServer.asked[model] > before) == status.startswith("in_vain")


def test_a_wrong_answer_is_asked_once_more_with_what_is_wrong(url, tmp_path):
    row = ask_one(endpoint(url, "mends"), tmp_path)
    assert row["status"] == "ok" and row["tries"] == 2 and len(row["raw"]) == 2
    said = FakeServer.bodies[-1]["messages"]
    assert "no field query, answer" in said[-1]["content"] and said[-2]["role"] == "assistant"
    assert ask_one(endpoint(url, "cut"), tmp_path)["tries"] == 2
    assert ask_one(endpoint(url, "refuses"), tmp_path)["tries"] == 1  # it will not change its mind
    assert ask_one(endpoint(url, "prose"), tmp_path)["tries"] == 1  # repaired without asking


def test_a_schema_is_asked_for_where_the_server_knows_it(url, tmp_path):
    assert ask_one(endpoint(url, "rules"), tmp_path)["status"] == "ok"
    schema = FakeServer.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["query", "answer"] and not schema["additionalProperties"]
    two = [MUG, {**MUG, "passage_id": "p2", "text": "This red mug is made of tin."}]
    rows = ask(endpoint(url, "no-schema"), tmp_path, rows=two, concurrency=1)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    given = ["response_format" in body for body in FakeServer.bodies[1:]]
    assert given == [True, False, False]  # once in a process


def test_nothing_is_asked_twice_after_a_kill(url, tmp_path):
    rows = [{**MUG, "passage_id": f"p{n}", "text": f"Mug {n} is made of tin."} for n in range(6)]
    spec = AskSpec(endpoint(url, "rules"), f"{tmp_path}/journal", concurrency=1)
    asked = ask_batches(iter(requests_of(spec.endpoint, rows)), spec=spec)
    first = next(asked)  # a task that is lost after some answers
    asked.close()
    assert first.num_rows and FakeServer.asked["rules"] == 6
    again = [
        r
        for b in ask_batches(iter(requests_of(spec.endpoint, rows)), spec=spec)
        for r in b.to_pylist()
    ]
    assert FakeServer.asked["rules"] == 6
    assert [row["passage_id"] for row in again] == [f"p{n}" for n in range(6)]
    kept = next(Path(tmp_path, "journal").iterdir())
    kept.write_text(kept.read_text()[:50])  # cut off by a crash
    list(ask_batches(iter(requests_of(spec.endpoint, rows)), spec=spec))
    assert FakeServer.asked["rules"] == 7


_KILLED = """
import sys
from tests.unit.synthesis.test_asking import MUG, endpoint, requests_of
from udfs.synthesis.asking import ask_batches
from udfs.synthesis.spec import AskSpec
rows = [{**MUG, "text": f"Mug {n} is made of tin."} for n in range(40)]
spec = AskSpec(endpoint(sys.argv[1], "slow-rules"), sys.argv[2], concurrency=2)
list(ask_batches(iter(requests_of(spec.endpoint, rows)), spec=spec))
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_what_was_under_way_alone(url, tmp_path):
    journal = tmp_path / "journal"
    command = [sys.executable, "-c", _KILLED, url, str(journal)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3]) as worker:
        while len(list(journal.glob("[!.]*.json"))) < 5:
            assert worker.poll() is None
            time.sleep(0.01)
        worker.kill()
    rows = [{**MUG, "text": f"Mug {n} is made of tin."} for n in range(40)]
    made = ask(endpoint(url, "slow-rules"), tmp_path, rows=rows, concurrency=2)
    assert [row["status"] for row in made] == ["ok"] * 40
    assert 40 <= FakeServer.asked["slow-rules"] <= 40 + 2


def test_tasks_of_an_executor_share_its_slots(tmp_path):
    under_way, most, lock = 0, 0, threading.Lock()

    def work(slots):
        nonlocal under_way, most
        with slots.take():
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.02)
            with lock:
                under_way -= 1

    tasks = [Slots(str(tmp_path), count=2) for _ in range(2)]  # each has its own files open
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, tasks * 6))
    assert most == 2


def test_a_request_is_another_one_where_anything_that_decides_its_answer_is(url):
    base = endpoint(url, "rules")

    def name(spec, row=MUG, step="query"):
        return requests_of(spec, [row], step)[0].to_pylist()[0]["request_id"]

    others = [
        name(base),
        name(endpoint(url, "other")),
        name(endpoint(url, "rules", seed=1)),
        name(endpoint(url, "rules", temperature=0.1)),
        name(base, {**MUG, "text": "Another text."}),
        name(base, step="entity"),
    ]
    assert len(set(others)) == len(others)
    assert name(endpoint("http://elsewhere/v1", "rules", tries=9)) == others[0]
    assert name(base, {**MUG, "passage_id": "p9"}) == others[0]  # the same content is asked once


def test_requests_at_a_time_are_bounded(url, tmp_path):
    rows = [{**MUG, "text": f"Mug number {n} is made of tin."} for n in range(12)]
    ask(endpoint(url, "slow-rules"), tmp_path, rows=rows, concurrency=3)
    assert 1 < FakeServer.most <= 3


def test_a_server_that_is_gone_ends_the_task_and_keeps_what_it_said(url, tmp_path):
    rows = [{**MUG, "text": f"Mug number {n} is made of tin."} for n in range(30)]
    spec = endpoint(url, "dies", tries=1, longest_pause=0.01)
    FakeServer.after = 4
    with pytest.raises(ServingError, match=r"did not answer 3 requests in a row.*server_error"):
        ask(spec, tmp_path, rows=rows, concurrency=1, give_up_after=3)
    assert len(list(Path(tmp_path, "journal").iterdir())) == 4
    assert FakeServer.asked["dies"] <= 4 + 3 + 2  # those under way, not all thirty


def test_keys_come_from_the_environment_and_stay_there(url, tmp_path, monkeypatch, caplog):
    with pytest.raises(SettingsError, match=r"OPENAI_API_KEY is not set"):
        ask_one(endpoint(url, "rules", key="environment"), tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    caplog.set_level("DEBUG")
    ask_one(endpoint(url, "rules", key="environment"), tmp_path)
    assert FakeServer.keys == {f"Bearer {SECRET}"}
    with pytest.raises(SettingsError, match="HTTP 401 Unauthorized") as refused:
        ask_one(endpoint(url, "no-key", key="environment"), tmp_path)
    kept = [path.read_text() for path in Path(tmp_path, "journal").iterdir()]
    assert SECRET not in " ".join([str(refused.value), caplog.text, *kept])


def test_a_picture_becomes_a_file_that_its_content_names(url, tmp_path):
    caption = {"passage_id": "p1", "text": "A red mug with dots on a plain background."}
    row = ask_one(endpoint(url, "drawn"), tmp_path, rows=[caption], step="picture")
    assert row["status"] == "ok" and Path(row["picture"]).stat().st_size > 500
    assert Path(row["picture"]).is_relative_to(tmp_path / "pictures")
    assert "response_format" in FakeServer.bodies[0]
    cases = {"no-picture": "no_picture", "picture-elsewhere": "in_vain/no_picture"}
    for model, status in cases.items():
        got = ask_one(endpoint(url, model), tmp_path, rows=[caption], step="picture")
        assert (got["status"], got["picture"]) == (status, None)
    nothing = {"passage_id": "p2", "text": "Something that is no product."}
    got = ask_one(endpoint(url, "drawn"), tmp_path, rows=[nothing], step="picture")
    assert got["status"] == "in_vain/bad_request"


def test_texts_that_are_not_utf8_are_asked_all_the_same(url, tmp_path):
    arrays = {name: [None] for name in REQUEST_INPUT.names}
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([b"A mug of \xff tin, made of tin."]).view(pa.string())
            if name == "text"
            else pa.array(["p1"] if name == "passage_id" else values, pa.string())
            for name, values in arrays.items()
        ],
        schema=REQUEST_INPUT.arrow,
    )
    spec = endpoint(url, "rules")
    requests = list(request_batches(iter([batch]), spec=RequestSpec("query", spec)))
    assert requests[0].schema == REQUESTS.arrow
    asked = ask_batches(iter(requests), spec=AskSpec(spec, f"{tmp_path}/journal"))
    assert next(asked).to_pylist()[0]["status"] == "ok"
