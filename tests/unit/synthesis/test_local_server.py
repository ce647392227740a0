"""The local server as a process: there for the time of a block, and gone with it."""

import socket
from urllib.parse import urlsplit

import pytest

from jobs.settings.load import load_settings
from jobs.stages.synthesize import local
from jobs.stages.synthesize.local import serve_models
from udfs.errors import ServingError
from udfs.synthesis.client import ModelClient
from udfs.synthesis.prompts import step_messages


def settings(*sets):
    return load_settings(sets=sets, env={}).synthesize


def test_rules_and_drawn_pictures_are_served_while_the_block_lasts():
    with serve_models(settings("synthesize.server=rules")) as own:
        assert (own.model, own.key) == ("rules", "none")
        client = ModelClient(own.language_model())
        row = {"title": "Red mug", "text": "A red mug made of tin."}
        messages = step_messages("query", row, domains=(), passage_chars=100)
        assert "tin" in client.chat(messages, step="query", domains=()).text
        picture = ModelClient(own.picture_model()).draw("a red mug with dots")
        assert picture[:2] == b"\xff\xd8"
    where = urlsplit(own.url)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", where.port)):
        pass
    given = settings("synthesize.url=http://models/v1")
    with serve_models(given) as own:
        assert own is given


def test_a_server_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setattr(local, "MODULE", "udfs.synthesis.nothing")
    with (
        pytest.raises(ServingError, match="did not start"),
        serve_models(settings("synthesize.server=rules")),
    ):
        pass
