"""Docstrings for autodoc: they are Markdown, and autodoc reads reStructuredText."""

from __future__ import annotations

import re
from typing import Any

from generators.docstrings import as_list

# Code, a link, or a mark that means something in reStructuredText alone.
_INLINE = re.compile(r"`(?P<code>[^`]+)`(?P<glued>\w)?|\[(?P<text>[^\]]+)\]\((?P<url>https?://[^)]+)\)|[|*]|(?<=\w)_\b")


def as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite `lines` in place, as Sphinx's event `autodoc-process-docstring` asks.

    A docstring with Markdown headings is a page of its own on the site: here its first paragraphs are enough.
    """
    text = "\n".join(lines).expandtabs().strip()
    text = text.split("\n## ")[0].rstrip()
    paragraphs = text.split("\n\n")
    if what == "module":  # what follows tells readers of the code which file holds what
        written = _INLINE.sub(_rst, paragraphs[0])
    else:
        written = "\n\n".join(map(_block, paragraphs))
    lines[:] = ["", *written.splitlines(), ""]


def _block(block: str) -> str:
    rows = block.splitlines()
    if not rows:
        return block
    if rows[0].startswith(("|", "    ", "```")):  # a table, or code: as it is
        return "::\n\n" + "\n".join(f"    {row}" for row in rows)
    listed = as_list(block)
    if listed == block and any(row.startswith(" ") for row in rows) and not rows[0].startswith("- "):
        return "\n".join(f"| {_INLINE.sub(_rst, row)}" for row in rows)  # whose lines are kept
    return _INLINE.sub(_rst, listed)


def _rst(found: re.Match[str]) -> str:
    if found["code"]:
        return f"``{found['code']}``" + (f"\\ {found['glued']}" if found["glued"] else "")
    if found["url"]:
        return f"`{found['text']} <{found['url']}>`__"
    return f"\\{found[0]}"
