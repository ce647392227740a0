"""serve-sql refuses before Spark starts: addresses that strangers reach, that are taken or set elsewhere."""

import json
import socket
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from jobs.driver import cli
from jobs.driver.printing import Report
from jobs.serve_sql import require_servable
from jobs.settings.load import load_settings
from udfs.errors import SettingsError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def refused(*sets: str) -> str:
    """Why `gme-lake serve-sql` with these settings ends before it has opened anything."""
    words = [word for item in sets for word in ("--set", item)]
    result = CliRunner().invoke(cli.gme_lake(), ["serve-sql", "--json", *words])
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert (said["kind"], said["status"]) == ("SettingsError", 1)
    return said["error"]


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.1.2.3", "db.example.com", "127.0.0.1.example.com"]
)
@pytest.mark.parametrize("authentication", ["NONE", "NOSASL"])
def test_other_machines_need_authentication(host: str, authentication: str) -> None:
    sets = [f"serve_sql.host={host}", f"serve_sql.authentication={authentication}"]
    assert f"serve_sql.host={host}" in refused(*sets) and "LDAP" in refused(*sets)
    assert host in refused(sets[0])
    open_to_all = load_settings(sets=[sets[0], "serve_sql.authentication=LDAP"], env={})
    assert open_to_all.serve_sql.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machine_needs_none(host: str) -> None:
    settings = load_settings(sets=[f"serve_sql.host={host}", "serve_sql.port=0"], env={})
    assert settings.serve_sql.authentication == "NONE"


def test_a_port_that_is_taken_is_named(taken: int) -> None:
    said = refused(f"serve_sql.port={taken}")
    assert f"serve_sql.port={taken}" in said and "in use" in said
    require_servable(load_settings(sets=["serve_sql.port=0"], env={}))


def test_an_address_of_another_machine_is_named() -> None:
    said = refused("serve_sql.host=192.0.2.1", "serve_sql.authentication=LDAP")
    assert "serve_sql.host=192.0.2.1" in said and "assign" in said
    said = refused("serve_sql.host=nowhere.invalid", "serve_sql.authentication=LDAP")
    assert "serve_sql.host=nowhere.invalid" in said


def test_connect_needs_a_token_where_other_machines_come(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    monkeypatch.delenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", raising=False)
    strangers = ["serve_sql.host=0.0.0.0", "serve_sql.authentication=LDAP", "serve_sql.port=0"]
    strangers.append("serve_sql.connect_port=0")
    said = refused(*strangers)
    assert "serve_sql.host=0.0.0.0" in said and "SPARK_CONNECT_AUTHENTICATE_TOKEN" in said
    token = "spark.conf.spark.connect.authenticate.token=x"
    require_servable(load_settings(sets=[*strangers, token], env={}))
    monkeypatch.setenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", "x")
    require_servable(load_settings(sets=strangers, env={}))
    said = refused("serve_sql.port=0", f"serve_sql.connect_port={taken}")
    assert f"serve_sql.connect_port={taken}" in said and "in use" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("spark.connect.grpc.binding.address", "set serve_sql.host"),
        ("spark.connect.grpc.binding.port", "set serve_sql.connect_port"),
        ("spark.hive.server2.thrift.bind.host", "set serve_sql.host"),
        ("spark.hadoop.hive.server2.authentication", "set serve_sql.authentication"),
        ("hive.server2.thrift.port", "set serve_sql.port"),
        ("spark.hive.server2.transport.mode", "binary"),
    ],
)
def test_what_the_section_decides_is_not_taken_from_spark_conf(name: str, words: str) -> None:
    said = refused(f"spark.conf.{name}=x")
    assert f"spark.conf.{name}" in said and words in said


def test_variables_do_not_move_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVE_SERVER2_THRIFT_BIND_HOST", "0.0.0.0")
    with pytest.raises(SettingsError, match="HIVE_SERVER2_THRIFT_BIND_HOST says"):
        require_servable(load_settings(sets=["serve_sql.port=0"], env={}))


@pytest.mark.parametrize(("arguments", "expected"), [([], "at x"), (["--json"], '{"url": "x"}')])
def test_what_serves_is_printed_before_it_serves(arguments: list[str], expected: str) -> None:
    seen = []

    @cli.job(sections=("serve_sql",), name="server")
    def server(context: cli.JobContext) -> Report:
        return Report("at x", {"url": "x"}, serve=lambda: seen.append(print("a stray line")))

    result = CliRunner().invoke(server, arguments)
    assert result.exit_code == 0 and seen == [None]
    lines = [line for line in result.stdout.splitlines() if "stray" not in line or not arguments]
    assert lines[0] == expected and result.stdout.count(expected) == 1
