"""The documents of this repository, with what stands in them: the README, its neighbours, the pages of the site."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """The pages of the site that are written by hand."""
    return sorted(path for path in DOCS.rglob("*.md") if "generated" not in path.relative_to(DOCS).parts)


def documents() -> list[Path]:
    """All documents that people read."""
    return [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")] + pages()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of that language, in their order."""
    return [code for kind, code in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def command_lines(path: Path, program: str) -> list[str]:
    """The lines of the shell blocks that begin with `program`, without comments, with continued ones joined."""
    text = "\n".join(blocks(path, "bash")).replace("\\\n", " ")
    lines = [re.sub(r"\s#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line.split()[:1] == [program]]


def prose(path: Path) -> str:
    """The text without its code blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What links to its headings end in, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def includes(path: Path) -> list[str]:
    """The files that a page includes, relative to its folder."""
    return re.findall(r"^```\{include\} (\S+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
