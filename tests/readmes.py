"""The project's READMEs as tests read them: their files, blocks of code, commands, links and paths."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What demo, tests and builds leave (make clean).
LEFT = {"build", "demo-lake", "dist", "metastore_db", "mlruns", "spark-warehouse"}
COMMANDS = ("gme-lake", "conf/standalone/submit.sh")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def readmes(root: Path = ROOT) -> list[Path]:
    """Every README.md, the first page first; without hidden folders and what builds leave."""
    folders = (p for p in root.iterdir() if p.is_dir() and p.name not in LEFT)
    rooms = (f for folder in folders if folder.name[0] != "." for f in folder.rglob("README.md"))
    shown = (f for f in rooms if not any(part[0] == "." for part in f.relative_to(root).parts))
    return [root / "README.md", *sorted(shown)]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for name, body in _BLOCK.findall(text) if name == language]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _BLOCK.sub("", text)


def commands(text: str) -> list[list[str]]:
    """Every gme-lake or submit.sh command line, in blocks and with --set in sentences, as words after its name."""
    lines = "\n".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(gme-lake [a-z-]+ [^`]*--set[^`]*)`", prose(text).replace("\n", " "))
    words = [shlex.split(line, comments=True) for line in [*lines, *inline]]
    return [line[line.index(n) + 1 :] for line in words for n in COMMANDS if n in line]


def links(text: str) -> list[str]:
    """Targets of all links and pictures that are no URLs."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [target for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """Names that a link into the page may have after #: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths(text: str, rooms: set[str]) -> list[str]:
    """Files and folders of the project that sentences name by their whole path: those that start with a room."""
    named = re.findall(r"`([\w-]+(?:/[\w.-]+)*/?)`", prose(text))
    return [path for path in named if "/" in path and path.split("/")[0] in rooms]


def tree(text: str) -> list[str]:
    """The folders of a two-level tree in a block of text: first words of its lines, indented ones below the last."""
    above, found = "", []
    for line in "".join(blocks(text, "text")).splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            above = name
        found.append(above + name if line.startswith(" ") else name)
    return found
