"""Which files of a data folder hold one part of a task, read with the columns that a layout may have."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from jobs.lake.sql import identifier
from udfs import storage
from udfs.errors import LakeError

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".jsonl.gz": "json", ".tsv": "tsv"}
_SPACE = " \t\n\r\f\v"


def files_of(folder: str, part: str, *, split: str, of_split: bool = False) -> list[str]:
    """Files of a part (`corpus`, `queries`, `qrels`): one format, the plainest name first; [] where there are none.

    `<part>.<ending>` in the folder (not with `of_split`); else what in `<part>/` is called after the split
    (`test.tsv`, `test-00000-of-00004.parquet`); else, but not with `of_split`, all of `<part>/`.
    """
    if not of_split and (plain := _chosen(storage.names(folder), part, exact=True)):
        return [storage.join(folder, name) for name in plain]
    inner = storage.join(folder, part)
    names = storage.names(inner)
    found = _chosen(names, split, exact=False) or (
        [] if of_split else _chosen(names, "", exact=False)
    )
    return [storage.join(inner, name) for name in found]


def _chosen(names: Sequence[str], stem: str, *, exact: bool) -> list[str]:
    """Names of the first format that has any: called `stem`, or (unless exact) sharded as `stem-…`."""
    for ending in _FORMATS:
        stems = {name: name.removesuffix(ending) for name in names if name.endswith(ending)}
        found = [
            name
            for name, own in stems.items()
            if own == stem or (not exact and (not stem or own.startswith(f"{stem}-")))
        ]
        if found:
            return found
    return []


def read_files(spark: SparkSession, files: Sequence[str], *, columns: Sequence[str]) -> DataFrame:
    """A frame over files of one format. JSON lines have exactly `columns`, as strings, null where a line has none:
    inference would read every line twice and calls one id a number, the next one text.

    Raises LakeError where they cannot be read.
    """
    kind = next(kind for ending, kind in _FORMATS.items() if files[0].endswith(ending))
    try:
        if kind == "json":
            schema = StructType([StructField(name, StringType()) for name in columns])
            return spark.read.schema(schema).json(list(files))
        if kind == "tsv":
            return spark.read.csv(list(files), sep="\t", header=True, quote="")
        return spark.read.parquet(*files)
    except AnalysisException as error:
        raise LakeError(f"{files[0]} cannot be read: {error.getMessage() or error}") from None


def first_of(frame: DataFrame, names: Sequence[str], *, file: str) -> Column:
    """The first column of these names that is not null, as string; a row with none fails the query.

    Raises LakeError where the frame has none of them.
    """
    have = [name for name in names if name in frame.columns]
    if not have:
        raise LakeError(
            f"{file} has no column {' or '.join(names)}; it has: {', '.join(frame.columns)}"
        )
    missing = F.raise_error(F.lit(f"{file} has a row without {' or '.join(names)}"))
    return F.coalesce(*(F.col(identifier(name)).cast("string") for name in have), missing)


def join_text(frame: DataFrame, names: Sequence[str]) -> Column:
    """Text columns joined by a space and stripped, as GME joins title and text; null where nothing is left."""
    if not names:
        return F.lit(None).cast("string")
    joined = F.concat_ws(" ", *(F.col(identifier(name)).cast("string") for name in names))
    return F.nullif(F.btrim(joined, F.lit(_SPACE)), F.lit(""))


def image_uri(path: Column, *, folder: str) -> Column:
    """A path as it is where it is absolute or a URI, else under the folder; null where there is none."""
    absolute = path.startswith("/") | path.contains("://")
    under = F.concat(F.lit(storage.join(folder, "")), path)
    return F.when(path != "", F.when(absolute, path).otherwise(under))
