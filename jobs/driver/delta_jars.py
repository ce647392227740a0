"""Delta's jars for local sessions: fetched once through Spark's own resolver, then taken from a folder."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from udfs.errors import LakeError

# Spark brings everything else these two need at run time, in newer versions than Delta asks for.
_JARS = ("delta-spark", "delta-storage")
EXCLUDED = (
    "org.*:*,com.*:*,commons-*:*,javax.*:*,io.airlift:*,io.unitycatalog:*,io.delta:delta-kernel-*"
)
# A user's own repositories hold for this fetch too.
_RESOLVER_CONF = ("spark.jars.ivySettings", "spark.jars.repositories")

log = logging.getLogger("gme_lake")


def delta_jars(conf: Mapping[str, str], *, cache: Path | None = None) -> list[str]:
    """Paths of Delta's jars for the installed pyspark and delta-spark; empty where Spark has them already.

    `conf` are the user's Spark settings: a Delta jar or package named there, or one in Spark's own folder, is left
    as it is. Looks in `cache` (~/.cache/gme-lake) and fetches what is missing. Raises LakeError where that fails.
    """
    import pyspark

    spark_home = Path(pyspark.__file__).parent
    named = conf.get("spark.jars", "") + conf.get("spark.jars.packages", "")
    if "delta-spark" in named or any((spark_home / "jars").glob("delta-spark_*.jar")):
        return []
    package = delta_package()
    folder = (cache or Path.home() / ".cache" / "gme-lake") / package.replace(":", "-")
    if not _complete(folder):
        log.info("Fetching %s to %s (once)", package, folder)
        _fetch(package, folder, spark_home=spark_home, conf=conf)
    return sorted(str(jar) for jar in folder.glob("*.jar"))


def delta_package() -> str:
    """Maven's name of Delta for the installed pyspark and delta-spark."""
    import pyspark

    minor = ".".join(pyspark.__version__.split(".")[:2])
    return f"io.delta:delta-spark_{minor}_2.13:{version('delta-spark')}"


def _complete(folder: Path) -> bool:
    return all(any(folder.glob(f"*{name}*.jar")) for name in _JARS)


def _fetch(package: str, folder: Path, *, spark_home: Path, conf: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that a finished jar is moved there in one step even where two sessions fetch at once.
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as ivy:
        nothing = Path(ivy, "nothing.py")
        nothing.touch()
        settings = {"spark.jars.ivy": ivy, "spark.ui.enabled": "false", "spark.master": "local"}
        settings |= {key: conf[key] for key in _RESOLVER_CONF if key in conf}
        options = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
        submit = [str(spark_home / "bin" / "spark-submit"), "--packages", package]
        submit += ["--exclude-packages", EXCLUDED, *options, str(nothing)]
        done = subprocess.run(submit, capture_output=True, text=True, check=False)
        for jar in Path(ivy, "jars").glob("*.jar"):
            jar.replace(folder / jar.name)
    if not _complete(folder):
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines()]
        why = next((line for line in lines if "Exception" in line or "rror" in line), "no answer")
        raise LakeError(
            f"Delta's jars {package} could not be fetched: {why}. Without a network, name local ones: "
            "--set spark.conf.spark.jars=/path/delta-spark_….jar,/path/delta-storage-….jar"
        )
