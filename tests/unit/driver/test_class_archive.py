"""The archive of Spark's classes: one for each Java and Spark, and none where Java has made none."""

import subprocess
import sys
from pathlib import Path

from jobs.driver import class_archive
from jobs.driver.class_archive import archive_file, archive_options, make_archive


def test_a_session_starts_from_the_archive_that_was_made(tmp_path: Path, monkeypatch) -> None:
    assert archive_options(cache=tmp_path) == []

    def make(command, **keywords):
        assert command[:3] == [sys.executable, "-m", "jobs.driver.class_archive_session"]
        Path(command[3]).write_text("classes")

    monkeypatch.setattr(class_archive.subprocess, "run", make)
    file = make_archive(cache=tmp_path)
    assert file == archive_file(cache=tmp_path) and list(tmp_path.iterdir()) == [file]
    assert archive_options(cache=tmp_path)[0] == f'"-XX:SharedArchiveFile={file}"'
    monkeypatch.setattr(class_archive.subprocess, "run", None)
    assert make_archive(cache=tmp_path) == file


def test_another_java_has_another_archive(tmp_path: Path, monkeypatch) -> None:
    first = archive_file(cache=tmp_path)
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("17")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    second = archive_file(cache=tmp_path)
    java.unlink()
    assert len({first, second, archive_file(cache=tmp_path)}) == 3


def test_no_archive_is_no_option(tmp_path: Path, monkeypatch) -> None:
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(class_archive.subprocess, "run", lambda *args, **keywords: failed)
    assert make_archive(cache=tmp_path) is None
    assert archive_options(cache=tmp_path) == [] and list(tmp_path.iterdir()) == []
