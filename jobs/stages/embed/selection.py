"""Which rows of the source a run looks at: a predicate, the first so many, those rejected before; checked before the
first row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType

from jobs.lake.lake import cause
from jobs.lake.sql import identifier
from jobs.settings.embed import EmbedSettings
from jobs.stages.embed.source_checks import SourceColumns
from udfs.errors import LakeError

_QUOTED = re.compile(
    r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`]|``)*`|--[^\n]*|/\*.*?\*/", re.DOTALL
)
_SUBQUERY = re.compile(r"\(\s*(?:SELECT|WITH|TABLE|VALUES|FROM)\b", re.IGNORECASE)
# Spark counts these as deterministic: they are the same within one statement, and not from one run to the next.
_OF_THE_MOMENT = re.compile(
    r"\b(?:current_(?:date|time|timestamp|timezone|user|catalog|database|schema)|localtimestamp)\b|"
    r"\b(?:now|curdate|user|session_user)\s*\(|\bunix_timestamp\s*\(\s*\)",
    re.IGNORECASE,
)
_MOMENT = re.compile(
    r"\b(?:date|timestamp\w*)\s*'\s*(?:now|today|yesterday|tomorrow)\b", re.IGNORECASE
)
_NO_ORDER = ("array", "map", "struct", "binary", "variant", "interval", "void")


@dataclass(frozen=True)
class Order:
    """A column, as the table spells it, and the way it goes; nulls are last, ties go by id."""

    column: str
    descending: bool = False


@dataclass(frozen=True)
class Selection:
    """What sections `embed` names of the source: the rows of which `where` is true, the first `limit`, those to `retry`."""

    where: str | None = None
    limit: int | None = None
    order: Order | None = None
    retry: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether every row is looked at."""
        return self.where is None and self.limit is None and not self.retry

    def inside(self) -> Column:
        """Of a row of the source: whether the predicate is true; of null it is not."""
        if self.where is None:
            return F.lit(True)
        return F.coalesce(F.expr(self.where), F.lit(False))

    def rank(self) -> Column:
        """Of a row of the source: what the order goes by; null without one."""
        if self.order is None:
            return F.lit(None).cast("string")
        return F.col(identifier(self.order.column))

    def first_of(self, rank: str) -> Column:
        """Of several rows: the value of column `rank` that comes first."""
        is_descending = self.order is not None and self.order.descending
        return F.max(rank) if is_descending else F.min(rank)

    def by_rank(self, rank: str) -> Column:
        """What rows are sorted by."""
        column = F.col(rank)
        if self.order is not None and self.order.descending:
            return column.desc_nulls_last()
        return column.asc_nulls_last()


WHOLE = Selection()


def read_selection(embed: EmbedSettings, columns: SourceColumns, table: DataFrame) -> Selection:
    """What settings select of a source `table`. Raises LakeError for what cannot be meant, before anything is done."""
    several = [f"embed.{name}" for name in ("limit", "retry", "rescan") if getattr(embed, name)]
    if len(several) > 1:
        raise LakeError(
            f"{' and '.join(several)} cannot be set together: rows that are rejected again would be the first ones of every "
            "run"
        )
    if embed.where is not None:
        _check_predicate(embed.where, table, name=columns.table)
    order = None if embed.first is None else parse_order(embed.first, columns)
    return Selection(embed.where, embed.limit, order, tuple(embed.retry))


def parse_order(first: str, columns: SourceColumns) -> Order:
    """`column`, `column ASC` or `column DESC`. Raises LakeError for a column that is not there or has no order."""
    given = first.strip()
    name, _, way = given.rpartition(" ")
    descending = False
    if columns.find(given) is None and way.upper() in {"ASC", "DESC"}:
        given, descending = name.strip(), way.upper() == "DESC"
    kind = columns.type_of(given)
    if kind.startswith(_NO_ORDER):
        raise LakeError(
            f"embed.first={first}: column {given} of {columns.table} is {kind}: expected a column of plain values"
        )
    return Order(columns.find(given) or given, descending)


def find_flaw(predicate: str) -> str | None:
    """What of a predicate's text cannot be taken, though Spark would; None where there is nothing."""
    bare = _QUOTED.sub(" '' ", predicate)
    if _SUBQUERY.search(bare):
        return "it has a subquery, and only the row's own columns may decide"
    moment = find_moment(predicate)
    return moment and f"{moment} is another value in every run: give the value itself"


def find_moment(predicate: str) -> str | None:
    """What of a predicate's text is another value in every statement, though no row has changed; None: nothing."""
    bare = _QUOTED.sub(" '' ", predicate)
    found = _OF_THE_MOMENT.search(bare) or _MOMENT.search(predicate)
    return found[0].strip() if found else None


def _check_predicate(predicate: str, table: DataFrame, *, name: str) -> None:
    """Refuse what is no condition on one row, the same in every run. Raises LakeError with the columns there are."""
    flaw = find_flaw(predicate)
    if flaw is None:
        try:
            condition = F.expr(predicate)
            kind = table.select(condition).schema[0].dataType
            # An aggregate takes no other aggregate, no window and nothing that is not deterministic.
            _ = table.agg(F.max(condition)).schema
            if not isinstance(kind, BooleanType):
                flaw = f"it is {kind.simpleString()}, expected true or false"
        except (AnalysisException, ParseException) as error:
            flaw = cause(error)
    if flaw is not None:
        raise LakeError(
            f"embed.where={predicate!r} is no condition on {name}: {flaw}. Its columns are {', '.join(table.columns)}"
        )
