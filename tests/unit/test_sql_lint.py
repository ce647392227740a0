"""Names and values get into SQL by jobs/lake/sql.py alone: read off the source by `ast`, and shown to see violations."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUOTING = {"identifier", "readable", "table_sql", "literal"}
QUOTING |= {"literals", "string_array", "timestamp_literal"}
OWN = {"conf_text", "sql_type"}  # our files of conf/, and types of our tables
# What is declared of our own functions, in jobs/lake/sql_functions.py and jobs/stages/sql/session_functions.py.
OWN |= {"arguments_sql", "columns_sql", "comment_sql", "function_rows", "struct_sql"}
TAKES_SQL = {"sql", "where", "filter", "expr", "selectExpr", "delete", "merge"}
VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "ALTER", "DROP", "TRUNCATE")
VERBS += ("DESCRIBE", "OPTIMIZE", "VACUUM", "RESTORE", "CONVERT TO", "SHOW", "USE ", "WITH ")


class Linted:
    """A parsed file, and what its SQL is made of."""

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        self.tree = ast.parse(source)

    def violations(self) -> Iterator[str]:
        """`path:line: the expression that is put into SQL as it is`."""
        seen = set()
        for function, text in self._texts():
            for bad in self._unsafe(text, function):
                where = f"{self.path}:{bad.lineno}: {ast.unparse(bad):.80}"
                if where not in seen:
                    seen.add(where)
                    yield where

    def _texts(self) -> Iterator[tuple[ast.AST, ast.expr]]:
        """Texts made in an argument of what takes SQL, and those that begin with a verb of SQL wherever they are made."""
        for function, node in self._nodes(self.tree, self.tree):
            if _is_method(node, TAKES_SQL):
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                yield from ((function, a) for a in given if self._is_made(a, function))
            if isinstance(node, ast.expr) and _first_words(node).lstrip().startswith(VERBS):
                yield function, node

    def _nodes(self, node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield function, child
            yield from self._nodes(child, child if inner else function)

    def _is_made(
        self, given: ast.expr, function: ast.AST, seen: frozenset[str] = frozenset()
    ) -> bool:
        """Whether an expression puts a text together; a column's expression does not, nor a name that comes from
        elsewhere.
        """
        if isinstance(given, ast.Starred):
            return self._is_made(given.value, function, seen)
        if isinstance(given, ast.Name):
            values = [] if given.id in seen else self._values(given.id, function)
            return any(self._is_made(v, function, seen | {given.id}) for v in values)
        if isinstance(given, ast.GeneratorExp | ast.ListComp):
            return self._is_made(given.elt, function, seen)
        if isinstance(given, ast.BinOp):
            return any(_is_text(part) for part in (given.left, given.right))
        return isinstance(given, ast.JoinedStr) or _is_method(given, {"format", "join"})

    def _unsafe(
        self, node: ast.expr, function: ast.AST, seen: frozenset[str] = frozenset()
    ) -> Iterator[ast.expr]:
        """The parts of an expression that get into SQL unquoted."""
        if isinstance(node, ast.Constant) or _is_quoting(node):
            return
        if isinstance(node, ast.JoinedStr):
            for part in node.values:
                yield from self._unsafe(part, function, seen)
        elif isinstance(node, ast.FormattedValue | ast.Starred | ast.Subscript):
            yield from self._unsafe(node.value, function, seen)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from (
                bad for p in (node.left, node.right) for bad in self._unsafe(p, function, seen)
            )
        elif isinstance(node, ast.IfExp):
            yield from (
                bad for p in (node.body, node.orelse) for bad in self._unsafe(p, function, seen)
            )
        elif isinstance(node, ast.List | ast.Tuple):
            yield from (bad for part in node.elts for bad in self._unsafe(part, function, seen))
        elif isinstance(node, ast.ListComp | ast.GeneratorExp):
            yield from self._unsafe(node.elt, function, seen)
        elif _is_method(node, {"join", "format", "items", "strip"}):
            parts = [node.func.value, *node.args, *(k.value for k in node.keywords)]
            yield from (bad for part in parts for bad in self._unsafe(part, function, seen))
        elif isinstance(node, ast.Name) and node.id in seen:
            return  # a name made of itself: its other values tell
        elif isinstance(node, ast.Name) and node.id in _sql_parameters(function):
            return  # a method that takes SQL: what its callers hand over is looked at there
        elif isinstance(node, ast.Name):
            seen |= {node.id}
            values = self._values(node.id, function)
            known = bool(values) or node.id in self._constants_imported
            if not known or any(list(self._unsafe(value, function, seen)) for value in values):
                yield node
        else:
            yield node

    def _values(self, name: str, function: ast.AST) -> list[ast.expr]:
        """What a name is assigned in its function, or in the module; what it runs over in a loop or comprehension."""
        for scope in (function, self.tree):
            if found := list(_assigned(name, scope)):
                return found
        return []

    @cached_property
    def _constants_imported(self) -> set[str]:
        found = (n for n in ast.walk(self.tree) if isinstance(n, ast.ImportFrom))
        return {alias.name for node in found for alias in node.names if alias.name.isupper()}


def _assigned(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if _names(target) == [name]:
                    yield node.value
                elif name in _names(target):
                    pairs = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                    yield node.value.elts[_names(target).index(name)] if pairs else node.value
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            if _names(node.target) == [name] and node.value is not None:
                yield node.value
        elif isinstance(node, ast.For | ast.comprehension) and name in _names(node.target):
            yield node.iter
        elif _is_method(node, _ADDING) and _names(node.func.value) == [name]:
            yield from node.args[-1:]


def _sql_parameters(function: ast.AST) -> set[str]:
    """Names of the SQL that a method of a name in TAKES_SQL is given: by name alone, so that callers say which it is."""
    if isinstance(function, ast.FunctionDef) and function.name in TAKES_SQL:
        return {argument.arg for argument in function.args.kwonlyargs}
    return set()


_ADDING = {"append", "insert", "extend"}


def _names(target: ast.expr) -> list[str]:
    if isinstance(target, ast.Tuple):
        return [name for part in target.elts for name in _names(part)]
    return [target.id] if isinstance(target, ast.Name) else []


def _is_method(node: ast.AST, names: Collection[str]) -> bool:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_call and node.func.attr in names


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    is_constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_constant or isinstance(node, ast.JoinedStr)


def _is_quoting(node: ast.expr) -> bool:
    """A call of the functions that quote, the lake's names, which are quoted, or a number."""
    if isinstance(node, ast.Attribute):
        return ast.unparse(node).endswith("lake.schema")
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in QUOTING | OWN | {"int", "len"}
    of_lake = ast.unparse(node.func).split(".")[-2:-1] in (["lake"], ["self"])
    return _is_method(node, QUOTING) or (of_lake and _is_method(node, {"name", "quoted"}))


def _first_words(node: ast.expr) -> str:
    """The words that a text put together of parts begins with; nothing for what is no such text."""
    if isinstance(node, ast.BinOp):
        left = node.left
        return _first_words(left) or (
            left.value if _is_text(left) and isinstance(left, ast.Constant) else ""
        )
    if _is_method(node, {"format"}):
        text = node.func.value
        return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
    first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else None
    return str(first.value) if isinstance(first, ast.Constant) else ""


FILES = [
    Linted(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    for path in sorted((ROOT / "jobs").rglob("*.py"))
]


def test_all_that_gets_into_sql_is_quoted():
    assert len(FILES) > 50
    found = [violation for file in FILES for violation in file.violations()]
    assert not found, "put in by identifier(), table_sql() or literal():\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        'spark.sql(f"DELETE FROM {table}")',
        "spark.sql(f\"SELECT * FROM t WHERE id = '{row_id}'\")",
        'spark.sql("SELECT * FROM " + table)',
        'spark.sql("SELECT * FROM %s" % table)',
        'spark.sql("SELECT * FROM {}".format(table))',
        'rows.where(f"version > {since}")',
        'rows.where("id = \'" + row_id + "\'")',
        'rows.filter(condition=f"a = {b}")',
        'F.expr(f"{column} + 1")',
        'rows.selectExpr(*(f"{c} AS x" for c in columns))',
        'text = f"a = {b}"\nrows.where(text)',
        'def f(spark):\n    text = f"MERGE INTO {table} t"\n    run(spark, text)',
        'def f(name):\n    return "CREATE TABLE " + name',
        'name = user if user else literal(1)\nspark.sql(f"SELECT {name}")',
        'parts = []\nparts.append(f"{column} STRING")\nrows.where(", ".join(parts))',
        'spark.sql(f"SELECT {quote.literal}")',
        'spark.sql(f"SELECT * FROM {other.name(1)}")',
        'for c in columns:\n    spark.sql(f"ALTER TABLE t DROP COLUMN {c}")',
        'table = literal(1)\ndef f(table):\n    table = g()\n    spark.sql(f"DROP TABLE {table}")',
        'run.merge("t", rows, on=f"t.id = {row_id}")',
        'then = f"WHEN MATCHED AND t.id = {row_id} THEN DELETE"\nrun.merge("t", rows, then=then)',
        'def merge(self, name, *, on):\n    spark.sql(f"MERGE INTO {name} t USING s ON {on}")',
        'def match(self, *, on):\n    spark.sql(f"MERGE INTO t USING s ON {on}")',
    ],
)
def test_a_violation_is_seen(source):
    assert list(Linted("a.py", source).violations())


@pytest.mark.parametrize(
    "source",
    [
        'spark.sql(f"DELETE FROM {table_sql(table)} WHERE id = {literal(row_id)}")',
        'spark.sql(f"DELETE FROM {lake.name(table)}")',
        'spark.sql(f"DELETE FROM {job.lake.name(table)} WHERE n > {int(n)}")',
        "rows.where(\"status = 'ok'\")",
        "rows.where(predicate)",
        'rows.where(F.col("a") + 1 > F.lit(b))',
        'LIMIT = 10\nrows.where(f"rank <= {LIMIT}")',
        'from a import LIMIT\nrows.where(f"rank <= {LIMIT}")',
        'named = ", ".join(literal(i) for i in ids)\nspark.sql(f"DELETE FROM t WHERE id IN ({named})")',
        'sides = ("a", "b")\nrows.selectExpr(*(f"query_{s} AS {s}" for s in sides))',
        'text.format(schema=lake.schema, other="IF(a, b)")',
        'raise LakeError(f"table {name} does not exist")',
        "def f(spark, text):\n    spark.sql(text)",
        'parts = [identifier(a)]\nparts.append(f"{identifier(b)} STRING")\nrows.where(", ".join(parts))',
        "path.joinpath(name).format(other)",
        'def merge(self, *, on, then):\n    spark.sql(f"MERGE INTO t USING s ON {on} {then}")',
        'run.merge("t", rows, on=f"t.id = {literal(row_id)}", then="WHEN MATCHED THEN DELETE")',
    ],
)
def test_what_is_quoted_is_let_pass(source):
    assert not list(Linted("a.py", source).violations())
