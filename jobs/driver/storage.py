"""Folders of the lake as the cluster's file system sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def remove_folder(spark: SparkSession, path: str) -> None:
    """Remove a folder of intermediate files, local or by URI; a missing one is no error."""
    from pathlib import Path
    from shutil import rmtree

    if "://" not in path:
        if Path(path).exists():
            rmtree(path)
        return
    import fsspec

    filesystem, inner = fsspec.core.url_to_fs(path)
    if filesystem.exists(inner):
        filesystem.rm(inner, recursive=True)
