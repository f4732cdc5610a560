"""Docstrings as Markdown: they are written so, and need little more than their code's own place in a sentence."""

from __future__ import annotations

import inspect
import re
from typing import Any

# "name: what it is", or "name, other: ...", which begins an entry of a list of arguments.
_ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): ")


def markdown(documented: Any) -> str:
    """Return the docstring of a module, class or function, with its lists of arguments as lists."""
    said = re.sub(r"^(#+ .*)\n(?!\n)", r"\1\n\n", inspect.getdoc(documented) or "", flags=re.MULTILINE)
    return "\n\n".join(as_list(block) for block in said.split("\n\n"))


def first_sentence(documented: Any) -> str:
    """Return a docstring's first sentence, on one line."""
    paragraph = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]


def section(text: str, heading: str) -> str:
    """Return what stands under a heading `## heading` of a docstring."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if found is None:
        raise LookupError(f"no heading {heading!r}")
    return found[1].strip()


def as_list(block: str) -> str:
    """Turn a paragraph of `name: meaning` entries, whose further lines are indented, into a Markdown list.

    Other paragraphs come back as they are. So do tables and code.
    """
    lines = block.splitlines()
    if not lines or not _ENTRY.match(lines[0]) or any(line.startswith(("|", "```")) for line in lines):
        return block
    is_indented = any(line.startswith("    ") for line in lines)
    entries = sum(bool(_ENTRY.match(line)) for line in lines)
    if not is_indented and entries < len(lines):
        return block  # a sentence that happens to begin with a word and a colon
    listed = []
    for line in lines:
        if found := _ENTRY.match(line):
            names = ", ".join(f"`{name}`" for name in found[1].split(", "))
            listed.append(f"- {names}: {line[found.end() :]}")
        else:
            listed.append(f"  {line.strip()}")
    return "\n".join(listed)
