"""An archive of Spark's classes for local sessions: Java maps it into memory, instead of reading and verifying ten
thousand files.

`make setup` makes it once, beside Delta's jars. Java itself checks that an archive is of its own build and of the very
jars that it starts with, and goes without one that is not.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyspark

from jobs.settings.load import java_home

# What Java says of an archive that does not fit would stand in a command's output.
_SILENT = ("-Xlog:disable", "-Xlog:all=error:stderr")
_WORKER = "jobs.driver.class_archive_session"


def archive_options(*, cache: Path | None = None) -> list[str]:
    """Java's options for a session that starts from the archive; none where there is none."""
    file = archive_file(cache=cache)
    return [f'"-XX:SharedArchiveFile={file}"', *_SILENT] if file.is_file() else []


def make_archive(*, cache: Path | None = None) -> Path | None:
    """Make the archive where it is missing, by a short session; None where Java has made none."""
    file = archive_file(cache=cache)
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix="classes-") as folder:
        made = Path(folder, file.name)
        # Its output ends when Java does, which writes the archive last of all.
        subprocess.run(
            [sys.executable, "-m", _WORKER, str(made), folder], capture_output=True, check=False
        )
        if not made.is_file():
            return None
        made.replace(file)
    return file


def archive_file(*, cache: Path | None = None) -> Path:
    """Where the archive of this Java and this Spark belongs."""
    home = java_home()
    java = f"{home}/bin/java" if home else shutil.which("java") or "java"
    program = Path(java).resolve()
    changed = program.stat().st_mtime_ns if program.is_file() else 0
    parts = f"{program} {changed} {Path(pyspark.__file__).parent} {pyspark.__version__}"
    key = hashlib.sha256(parts.encode()).hexdigest()[:12]
    return (cache or Path.home() / ".cache" / "gme-lake") / f"spark-classes-{key}.jsa"
