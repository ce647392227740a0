"""Figures for Prometheus: the text that its collector reads, written at once."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.reports import textfile
from jobs.reports.textfile import Metric, render, require_folder, write_textfile
from jobs.settings.load import load_settings
from tests.unit.reports.states import lake_status
from udfs.errors import SettingsError

# One sample by the grammar of the format: name, labels with escaped values, a float.
SAMPLE = re.compile(r'(\w+)\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples as a reader of the format finds them; lines are ended by line feeds alone."""
    found = {}
    assert text == "" or text.endswith("\n")
    for line in text.split("\n")[:-1]:
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) gme_lake_\w+ .+", line)
            continue
        name, labels, value = SAMPLE.fullmatch(line).groups()
        plain = {
            key: re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], label)
            for key, label in LABEL.findall(labels)
        }
        key = name, frozenset(plain.items())
        assert key not in found, "a sample twice"
        found[key] = float(value)
    return found


@given(st.text(), st.floats(allow_nan=False))
def test_any_label_and_number_come_back(label, value):
    metric = Metric("x", "gauge", "A\nhelp \\ text.")
    metric.add(value, stage=label)
    ((_, labels), number) = next(iter(parse(render([metric])).items()))
    assert number == value
    assert dict(labels)["stage"] == label.encode("utf-8", "replace").decode()


def test_times_are_seconds_and_what_is_not_known_is_no_sample():
    metric = Metric("at", "gauge", "A time.")
    metric.add(datetime(1970, 1, 2, tzinfo=UTC), job="a")
    metric.add(None, job="b")
    text = render([metric, Metric("none", "counter", "Nothing.")])
    assert (
        text
        == '# HELP gme_lake_at A time.\n# TYPE gme_lake_at gauge\ngme_lake_at{job="a"} 86400.0\n'
    )


def test_a_release_is_told_of_with_its_rows_and_its_index():
    found = parse(render(textfile._of_release(lake_status())))
    by_name = {name: value for (name, _), value in found.items()}
    assert by_name["gme_lake_release_id"] == 7
    assert by_name["gme_lake_coverage_ratio"] == 0.95
    assert by_name["gme_lake_index_missing_rows"] == 3
    assert by_name["gme_lake_index_drift_ratio"] == 1.25
    assert by_name["gme_lake_gate_passed"] == 0
    assert found["gme_lake_rows", frozenset({("status", "too_slow")})] == 4
    model = {("model_id", "0123456789abcdef"), ("model_version", "2"), ("index_id", "index-1")}
    assert found["gme_lake_release_info", frozenset(model)] == 1


def test_the_file_is_replaced_at_once_and_others_may_read_it(tmp_path, monkeypatch):
    path = tmp_path / "gme.prom"
    path.write_text("old\n")
    metric = Metric("x", "gauge", "X.")
    metric.add(1)
    seen = []
    replace = Path.replace

    def look(self, target):
        seen.append((path.read_text(), [p.name for p in tmp_path.glob("*.prom")], self.read_text()))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look)
    write_textfile(path, [metric])
    text = "# HELP gme_lake_x X.\n# TYPE gme_lake_x gauge\ngme_lake_x{} 1.0\n"
    assert seen == [("old\n", ["gme.prom"], text)]
    assert path.read_text() == text and path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]

    def fail(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_textfile(path, [])
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_an_error_before_the_work(tmp_path):
    with pytest.raises(SettingsError, match=r"gone is no folder; make one"):
        require_folder(tmp_path / "gone" / "gme.prom")
    require_folder(tmp_path / "gme.prom")


@pytest.mark.parametrize("name", ["/var/lib/gme.txt", "s3://bucket/gme.prom", "gme.prom.tmp"])
def test_a_name_that_the_collector_does_not_read_is_refused(name):
    with pytest.raises(SettingsError, match=r"metrics.textfile=.*ends in \.prom"):
        load_settings(sets=[f"metrics.textfile={name}"], env={})
    load_settings(sets=["metrics.textfile=/var/lib/gme.prom"], env={})
