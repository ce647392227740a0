"""Import and wire rules of the layout, read from the source by `ast`; every rule is shown to see a violation."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "peft"}
TO_SPARK = {"mapInArrow", "mapInPandas", "applyInArrow", "applyInPandas", "udf", "pandas_udf"}
ROOMS_OF_SPARK = {"jobs.lake", "jobs.reports", "jobs.stages"}
FOR_HELP = {
    f"jobs/driver/{name}.py"
    for name in ("cli", "printing", "stopping", "task_errors", "delta_jars")
}
LATE = {"mlflow", "matplotlib", "torch", "peft", "pytrec_eval", "huggingface_hub"}
NOT_ON_CONNECT = {"rdd", "sparkContext", "parallelize", "mapPartitions"}


@dataclass(frozen=True)
class Import:
    """One imported module; `lazy`: inside a function or under TYPE_CHECKING."""

    name: str
    symbols: tuple[str, ...]
    line: int
    in_function: bool
    typing: bool
    relative: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def lazy(self) -> bool:
        return self.in_function or self.typing


class Module:
    """A parsed file of `jobs` or `udfs`, with its path relative to the project."""

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        self.source = source
        self.tree = ast.parse(source)
        self.name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.package = self.name.partition(".")[0]
        self.imports = list(_imports(self.tree.body, in_function=False, typing=False))

    def attributes(self) -> Iterator[ast.Attribute]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Attribute))


def _imports(body: list[ast.stmt], *, in_function: bool, typing: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), node.lineno, in_function, typing, False)
        elif isinstance(node, ast.ImportFrom):
            symbols = tuple(alias.name for alias in node.names)
            relative = node.level > 0
            yield Import(node.module or "", symbols, node.lineno, in_function, typing, relative)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            checked = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for part in ("body", "orelse", "finalbody"):
                yield from _imports(
                    getattr(node, part, []),
                    in_function=in_function or function,
                    typing=typing or (checked and part == "body"),
                )
            for handler in getattr(node, "handlers", []) + getattr(node, "cases", []):
                yield from _imports(handler.body, in_function=in_function, typing=typing)


def _is_job(module: Module) -> bool:
    return module.path.startswith("jobs/") and module.path.count("/") == 1


def udfs_never_import_jobs(module: Module, _: list[Module]) -> Iterator[str]:
    if module.package == "udfs":
        yield from (f"line {i.line}: imports {i.name}" for i in module.imports if i.top == "jobs")


def udfs_import_of_pyspark_only_task_context(module: Module, _: list[Module]) -> Iterator[str]:
    for i in module.imports:
        if module.package == "udfs" and i.top == "pyspark":
            allowed = i.name == "pyspark" and i.symbols == ("TaskContext",) and i.lazy
            if not allowed:
                yield f"line {i.line}: imports {i.name} {i.symbols}"


def udfs_never_import_driver_libraries(module: Module, _: list[Module]) -> Iterator[str]:
    for i in module.imports:
        if module.package == "udfs" and i.top in {"delta", "mlflow", "yaml", "click"}:
            yield f"line {i.line}: imports {i.name}"


def torch_only_in_functions_or_behind_the_server(
    module: Module, modules: list[Module]
) -> Iterator[str]:
    """A module with torch at its top may be imported at the top only of modules that have torch there too."""
    heavy = {m.name for m in modules if any(i.top in HEAVY and not i.lazy for i in m.imports)}
    if module.package == "jobs" and module.name in heavy:
        yield "imports torch or transformers at its top"
    for i in module.imports:
        full = {i.name, *(f"{i.name}.{symbol}" for symbol in i.symbols)}
        if module.name not in heavy and not i.lazy and full & heavy:
            yield f"line {i.line}: imports {i.name}, which imports torch"


def jobs_never_import_another_job(module: Module, modules: list[Module]) -> Iterator[str]:
    jobs = {m.name for m in modules if _is_job(m) and not m.path.endswith("__init__.py")}
    for i in module.imports:
        full = {i.name, *(f"{i.name}.{symbol}" for symbol in i.symbols)}
        if module.package == "jobs" and full & jobs:
            yield f"line {i.line}: imports {i.name}"


def job_files_never_import_torch(module: Module, _: list[Module]) -> Iterator[str]:
    if _is_job(module):
        yield from (f"line {i.line}: imports {i.name}" for i in module.imports if i.top in HEAVY)


def what_help_loads_imports_no_spark_and_no_stage(module: Module, _: list[Module]) -> Iterator[str]:
    """Commands and what they import at their top: `--help` loads all of them."""
    if _is_job(module) or module.path in FOR_HELP or module.path.startswith("jobs/settings/"):
        for i in module.imports:
            room = ".".join(i.name.split(".")[:2])
            slow = i.top in {"pyspark", "delta", "mlflow"} or room in ROOMS_OF_SPARK
            if slow and not i.lazy:
                yield f"line {i.line}: imports {i.name} at the top, which slows --help down"


def only_commands_import_within_functions(module: Module, _: list[Module]) -> Iterator[str]:
    """Elsewhere only what an installation may lack, or what is slow and seldom used, is imported late."""
    if module.package != "jobs" or _is_job(module) or module.path in FOR_HELP:
        return
    for i in module.imports:
        if i.in_function and i.top not in LATE:
            yield f"line {i.line}: imports {i.name} in a function"
        if i.top == "mlflow" and not i.lazy and module.path != "jobs/lake/pyfunc_model.py":
            yield f"line {i.line}: imports mlflow before its settings are made"


def only_settings_read_yaml(module: Module, _: list[Module]) -> Iterator[str]:
    if module.path != "jobs/settings/conf.py":
        yield from (f"line {i.line}: imports yaml" for i in module.imports if i.top == "yaml")


def only_settings_and_serving_read_the_environment(
    module: Module, _: list[Module]
) -> Iterator[str]:
    """`udfs` may ask for what Spark sets for a worker; `udfs/serving` also hands a server its environment."""
    if module.path == "jobs/settings/load.py" or module.path.startswith("udfs/serving/"):
        return
    for i in module.imports:
        if i.name == "os" and {"environ", "getenv"} & set(i.symbols):
            yield f"line {i.line}: imports {i.symbols} from os"
    spark_sets = 'os.environ.get("SPARK_LOCAL_DIRS"'
    lines = module.source.splitlines()
    for node in module.attributes():
        asked = module.package == "udfs" and spark_sets in lines[node.lineno - 1]
        if ast.unparse(node) in {"os.environ", "os.getenv", "os.putenv"} and not asked:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def only_session_touches_the_jvm(module: Module, _: list[Module]) -> Iterator[str]:
    if module.path not in {"jobs/driver/session.py", "jobs/serve_sql.py"}:
        for node in module.attributes():
            if node.attr in {"_jvm", "_jsc", "_jdf", "_jsparkSession"}:
                yield f"line {node.lineno}: .{node.attr}"


def no_rdd_api(module: Module, _: list[Module]) -> Iterator[str]:
    for node in module.attributes():
        if node.attr in NOT_ON_CONNECT:
            yield f"line {node.lineno}: .{node.attr}"


def absolute_imports(module: Module, _: list[Module]) -> Iterator[str]:
    yield from (f"line {i.line}: relative import" for i in module.imports if i.relative)


def no_drawer_modules(module: Module, _: list[Module]) -> Iterator[str]:
    found = {"utils", "util", "common", "helpers", "misc"} & set(module.name.split("."))
    yield from (f"named {word}" for word in found)


def one_line_docstring_opens_a_module(module: Module, _: list[Module]) -> Iterator[str]:
    doc = ast.get_docstring(module.tree)
    if not doc or not doc.splitlines()[0].strip():
        yield "has no docstring"


def only_on_executors_hands_functions_to_spark(module: Module, _: list[Module]) -> Iterator[str]:
    if module.path != "jobs/driver/on_executors.py":
        for node in module.attributes():
            if node.attr in TO_SPARK:
                yield f"line {node.lineno}: .{node.attr}"


def spark_gets_top_level_functions_of_udfs(module: Module, _: list[Module]) -> Iterator[str]:
    """`on_executors(rows, function, …)`, imported from udfs: workers find it by name, and keep its caches."""
    known = {s for i in module.imports if i.top == "udfs" for s in i.symbols}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("on_executors"):
            given = ast.unparse(node.args[1])
            if given not in known:
                yield f"line {node.lineno}: on_executors({given:.60})"


Rule = Callable[[Module, list[Module]], Iterator[str]]
# Each rule with a file that breaks it and one that comes close but does not.
RULES: list[tuple[Rule, tuple[str, str], tuple[str, str]]] = [
    (
        udfs_never_import_jobs,
        ("udfs/a.py", "def f():\n    from jobs.driver import lake"),
        ("udfs/a.py", "from udfs import jobs_of_spark"),
    ),
    (
        udfs_import_of_pyspark_only_task_context,
        ("udfs/a.py", "def f():\n    from pyspark.sql import Row"),
        ("udfs/a.py", "def f():\n    from pyspark import TaskContext"),
    ),
    (
        udfs_never_import_driver_libraries,
        ("udfs/a.py", "try:\n    pass\nexcept ValueError:\n    import mlflow.pyfunc"),
        ("udfs/a.py", "import json"),
    ),
    (
        torch_only_in_functions_or_behind_the_server,
        ("udfs/a.py", "from udfs.b import forward"),
        ("udfs/a.py", "def f():\n    from udfs.b import forward"),
    ),
    (
        jobs_never_import_another_job,
        ("jobs/a.py", "def f():\n    from jobs import b"),
        ("jobs/a.py", "from jobs.driver import b"),
    ),
    (
        job_files_never_import_torch,
        ("jobs/a.py", "def f():\n    import torch.nn"),
        ("jobs/a.py", "import torchless"),
    ),
    (
        what_help_loads_imports_no_spark_and_no_stage,
        ("jobs/a.py", "from jobs.stages.embed.job import embed_table"),
        ("jobs/a.py", "def command():\n    from jobs.stages.embed.job import embed_table"),
    ),
    (
        only_commands_import_within_functions,
        ("jobs/stages/a.py", "def f():\n    from pyspark.sql import functions"),
        ("jobs/stages/a.py", "from delta.tables import DeltaTable\ndef f():\n    import mlflow"),
    ),
    (
        only_settings_read_yaml,
        ("jobs/driver/a.py", "import yaml"),
        ("jobs/settings/conf.py", "import yaml"),
    ),
    (
        only_settings_and_serving_read_the_environment,
        ("jobs/driver/a.py", "import os\nX = os.environ['A']"),
        ("udfs/serving/a.py", "import os\nX = os.environ['CUDA_VISIBLE_DEVICES']"),
    ),
    (
        only_session_touches_the_jvm,
        ("jobs/driver/a.py", "spark._jvm.java.lang.System.gc()"),
        ("jobs/driver/session.py", "spark._jvm.java.lang.System.gc()"),
    ),
    (
        no_rdd_api,
        ("jobs/driver/a.py", "frame.rdd.map(len)"),
        ("jobs/driver/a.py", "on_executors(frame, f)"),
    ),
    (absolute_imports, ("udfs/gme/a.py", "from . import b"), ("udfs/gme/a.py", "import udfs")),
    (no_drawer_modules, ("udfs/utils.py", ""), ("udfs/utilisation.py", "")),
    (
        one_line_docstring_opens_a_module,
        ("udfs/a.py", "# A comment\nX = 1"),
        ("udfs/a.py", '"""What it is for."""'),
    ),
    (
        only_on_executors_hands_functions_to_spark,
        ("jobs/a.py", "from udfs.b import f\nframe.mapInArrow(f, 'a int')"),
        ("jobs/driver/on_executors.py", "frame.mapInArrow(f, 'a int')"),
    ),
    (
        spark_gets_top_level_functions_of_udfs,
        ("jobs/a.py", "from udfs.b import f\non_executors(frame, lambda b: f(b), spec=s)"),
        ("jobs/a.py", "from udfs.b import f\non_executors(frame, f, spec=s)"),
    ),
]
NEIGHBOURS = [Module("udfs/b.py", "import torch"), Module("jobs/b.py", "")]
PROJECT = [
    Module(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    for package in ("jobs", "udfs")
    for path in sorted((ROOT / package).rglob("*.py"))
]


@pytest.mark.parametrize("rule", [r[0] for r in RULES], ids=lambda r: r.__name__)
def test_project_keeps(rule: Rule) -> None:
    assert len(PROJECT) > 50
    found = [f"{m.path}: {word}" for m in PROJECT for word in rule(m, PROJECT)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("rule", "bad", "good"), RULES, ids=lambda x: getattr(x, "__name__", ""))
def test_rule_sees_a_violation_and_nothing_else(
    rule: Rule, bad: tuple[str, str], good: tuple[str, str]
) -> None:
    broken, fine = Module(*bad), Module(*good)
    assert list(rule(broken, [broken, *NEIGHBOURS]))
    assert not list(rule(fine, [fine, *NEIGHBOURS]))
