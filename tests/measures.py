"""Measures of the code for whoever reads it: `python -m tests.measures`. Fails on import circles alone."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles

ROOT = Path(__file__).resolve().parents[1]
# What is done to a thing rather than what is to be done, as the name of a function.
PARTICIPLE = re.compile(
    r"^_?(found|made|read_back|kept|told|drawn|sent|held|shown|built|[a-z]+ed)(_|$)"
)
NO_PARTICIPLE = {"embed", "need", "seed", "feed", "speed", "shed", "shared", "indexed"}


def parse(folder: str) -> dict[str, ast.Module]:
    """Modules below a folder by dotted name."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return {_dotted(path): ast.parse(path.read_text("utf-8")) for path in paths}


def _dotted(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imported(tree: ast.Module, modules: set[str]) -> set[str]:
    """Our modules that a module imports anywhere, inside functions and for typing too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & modules


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (strongly connected components of two or more; Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                groups.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return groups


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a module but properties, which are nouns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
            if not marks & {"property", "cached_property"}:
                yield node


def is_participle(name: str) -> bool:
    """Whether a function's name says what is done instead of what it does."""
    return bool(PARTICIPLE.match(name)) and name.lstrip("_").partition("_")[0] not in NO_PARTICIPLE


def imports_in_functions(tree: ast.Module) -> int:
    """Import statements inside functions."""
    inside = {
        child
        for node in functions(tree)
        for child in ast.walk(node)
        if isinstance(child, ast.Import | ast.ImportFrom)
    }
    return len(inside)


def figures(page: str) -> int:
    """Numbers in the prose of a page: not those of code, link targets, list items and names."""
    for part in (r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"(?m:^\d+\. )"):
        page = re.sub(part, " ", page, flags=re.DOTALL)
    return len(re.findall(r"(?<![\w-])\.?\d[\d.,]*(?:e-\d+)?", page))


def main() -> int:
    """Print the table; 1 where modules import each other in a circle."""
    modules = parse("jobs") | parse("udfs")
    graph = {name: imported(tree, set(modules)) - {name} for name, tree in modules.items()}
    found = circles(graph)
    trees = modules.values()
    paths = [p for folder in ("jobs", "udfs") for p in (ROOT / folder).rglob("*.py")]
    sources = [p.read_text("utf-8") for p in paths]
    folders = Counter(p.parent.relative_to(ROOT) for p in paths if p.name != "__init__.py")
    classes = Counter(n.name for t in trees for n in ast.walk(t) if isinstance(n, ast.ClassDef))
    bases = Counter(p.name for p in paths if p.name != "__init__.py")
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for tree in parse("tests/spark").values()
        for node in functions(tree)
        if node.name.startswith("test_")
    )
    readme = (ROOT / "README.md").read_text("utf-8")
    jobs = [tree for name, tree in modules.items() if name.startswith("jobs")]
    largest, number = folders.most_common(1)[0]
    rows = {
        "modules in the fullest folder": f"{number} ({largest})",
        "import circles, typing included": len(found),
        "class names used twice": _twice(classes),
        "functions named by a participle": sum(
            is_participle(f.name) for t in trees for f in functions(t)
        ),
        "base names used by two files": _twice(bases),
        "imports inside functions of jobs": sum(map(imports_in_functions, jobs)),
        "`lake.settings`": sum(len(re.findall(r"\blake\.settings\b", s)) for s in sources),
        "lines of jobs and udfs": sum(s.count("\n") for s in sources),
        "lines of README.md; figures": f"{readme.count(chr(10))}; {figures(readme)}",
        "Spark tests, lines: longest; 90 % of them up to": f"{lengths[-1]}; {quantiles(lengths, n=10)[-1]:.0f}",
    }
    for what, value in rows.items():
        print(f"{what:<50} {value}")
    for group in found:
        print("circle:", " <-> ".join(group))
    return 1 if found else 0


def _twice(names: Counter[str]) -> str:
    double = sorted(name for name, times in names.items() if times > 1)
    return f"{len(double)} {' '.join(double)}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
