"""Delta's jars: fetched once, never where the user or Spark has them, and a failure that says what to do."""

from pathlib import Path

import pytest

from jobs.driver.delta_jars import delta_jars, delta_package
from udfs.errors import LakeError

FETCHES = """#!/usr/bin/env python3
import pathlib, sys
ivy = next(word.partition("=")[2] for word in sys.argv if word.startswith("spark.jars.ivy="))
pathlib.Path(ivy, "jars").mkdir()
for name in ("io.delta_delta-spark_4.2_2.13-4.4.0.jar", "io.delta_delta-storage-4.4.0.jar"):
    pathlib.Path(ivy, "jars", name).write_text(" ".join(sys.argv))
print("a hundred lines")
"""
FAILS = """#!/bin/sh
echo ":: resolving dependencies ::"
echo "Exception in thread main: [unresolved dependency: io.delta#delta-spark: not found]" >&2
exit 1
"""


@pytest.fixture
def spark_home(tmp_path: Path, monkeypatch):
    """spark_home(script) stands in for Spark with that spark-submit; returns its folder."""
    import pyspark

    home = tmp_path / "spark"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setattr(pyspark, "__file__", str(home / "__init__.py"))

    def write(script: str) -> Path:
        submit = home / "bin" / "spark-submit"
        submit.write_text(script)
        submit.chmod(0o755)
        return home

    return write


def test_jars_are_fetched_once_without_a_word(spark_home, tmp_path: Path, capfd) -> None:
    home = spark_home(FETCHES)
    conf = {"spark.jars.repositories": "file:/mirror", "spark.executor.cores": "1"}
    jars = [Path(jar) for jar in delta_jars(conf, cache=tmp_path / "cache")]
    assert [jar.name.split("-4")[0] for jar in jars] == [
        "io.delta_delta-spark_4.2_2.13",
        "io.delta_delta-storage",
    ]
    asked = jars[0].read_text()
    assert delta_package() in asked
    assert "spark.jars.repositories=file:/mirror" in asked
    assert "spark.executor.cores" not in asked
    assert {path.suffix for path in jars[0].parent.iterdir()} == {".jar"}
    spark_home(FAILS)
    assert delta_jars({}, cache=tmp_path / "cache") == [str(jar) for jar in jars]
    assert capfd.readouterr() == ("", "")
    assert home.exists()


def test_a_failed_fetch_says_why_and_what_to_do(spark_home, tmp_path: Path) -> None:
    spark_home(FAILS)
    with pytest.raises(LakeError, match=r"not found\].*--set spark\.conf\.spark\.jars="):
        delta_jars({}, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "conf",
    [
        {"spark.jars": "/opt/delta-spark_4.2_2.13-4.4.0.jar,/opt/delta-storage-4.4.0.jar"},
        {"spark.jars.packages": "io.delta:delta-spark_4.2_2.13:4.4.0"},
    ],
    ids=str,
)
def test_a_users_own_delta_is_left_alone(spark_home, tmp_path: Path, conf: dict) -> None:
    spark_home(FAILS)
    assert delta_jars(conf, cache=tmp_path / "cache") == []


def test_spark_with_delta_inside_needs_none(spark_home, tmp_path: Path) -> None:
    jars = spark_home(FAILS) / "jars"
    jars.mkdir()
    (jars / "delta-spark_4.2_2.13-4.4.0.jar").touch()
    assert delta_jars({}, cache=tmp_path / "cache") == []
